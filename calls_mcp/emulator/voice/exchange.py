"""What a session asks the switchboard for, and what it receives while it waits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from calls_mcp.emulator.call_lifecycle import Call, Status
from calls_mcp.emulator.recordings import RecordingOptions, Source
from calls_mcp.emulator.voice.instructions import Fetched, Instructions
from calls_mcp.emulator.voice.twiml import Element


@dataclass(frozen=True)
class Pressed:
    """The other party pressed a key."""

    key: str


@dataclass(frozen=True)
class Spoken:
    """The other party said something."""

    text: str


@dataclass(frozen=True)
class Changed:
    """The status of the call, or of one that it dialed, has changed."""

    call: Call


@dataclass(frozen=True)
class Connected:
    """The dialed call `sid` is ready to talk."""

    sid: str


@dataclass(frozen=True)
class Released:
    """The conference or the talk with the one who served the queue has ended."""


@dataclass(frozen=True)
class Gone:
    """The call has ended. The session must not wait again."""


Input = Pressed | Spoken | Changed | Connected | Released | Fetched | Gone


@dataclass(frozen=True)
class Party:
    """Someone to dial.

    Attributes:
        to: The address.
        caller_id: The caller ID.
        delay: Seconds until the call is dialed.
        timeout: Seconds of ringing.
        noun: The element in `<Dial>`, with absolute URLs.
    """

    to: str
    caller_id: str
    delay: float
    timeout: float
    noun: Element


class Exchange(Protocol):
    """What a session needs from the switchboard. `sid` is a call."""

    def call(self, sid: str) -> Call:
        """Return the present record of a call."""
        ...

    def note(self, sid: str, event: str, text: str = "", **details: str) -> None:
        """Add an entry to the transcript."""
        ...

    def owns(self, number: str) -> bool:
        """Return whether this is a phone number of the account."""
        ...

    def can_reach(self, url: str) -> bool:
        """Return whether documents may be requested from this URL."""
        ...

    def fetch(self, sid: str, instructions: Instructions) -> None:
        """Request a document, which arrives as `Fetched`. After the call it is only noted."""
        ...

    def answer(self, sid: str) -> None:
        """Answer a call from outside."""
        ...

    def hang_up(self, sid: str, status: Status = "completed") -> None:
        """End a call, with this status if it was not answered."""
        ...

    def press(self, sid: str, keys: str) -> None:
        """Press keys for the other party to hear."""
        ...

    def tell(self, sid: str, text: str) -> None:
        """Tell the other party what it has just heard."""
        ...

    def dial(self, sid: str, party: Party) -> str:
        """Call someone for this call, and return the SID of the new call."""
        ...

    def watch(self, sid: str, other: str) -> None:
        """Receive `Changed` when another call is answered or ends."""
        ...

    def join(self, sid: str, conference: Element) -> int:
        """Join a conference and return the number of its participants, 0 if it is full."""
        ...

    def leave(self, sid: str) -> None:
        """Leave the conference or queue."""
        ...

    def enqueue(self, sid: str, queue: str, limit: int) -> int:
        """Join the end of a queue and return the position, 0 if the queue is full."""
        ...

    def position(self, sid: str, queue: str) -> tuple[int, int]:
        """Return the position of a call in a queue, from 1, and the length of the queue."""
        ...

    def serve(self, sid: str, queue: str) -> None:
        """Take the first call of a queue, or wait for one; it arrives as `Connected`."""
        ...

    def release(self, sid: str) -> None:
        """Let a call that was taken from a queue continue."""
        ...

    def connect(self, sid: str) -> None:
        """Connect a dialed call to the one that dialed it."""
        ...

    def save_recording(
        self, sid: str, source: Source, started: float, options: RecordingOptions
    ) -> Mapping[str, str]:
        """Keep a recording that ends now, and return the parameters that describe it."""
        ...
