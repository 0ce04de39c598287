"""A leg: what is known about a call besides its record, and what can happen in it."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Self, TypeVar

from calls_mcp.emulator.call_lifecycle import Call, Status
from calls_mcp.emulator.scenario import Callee, Script
from calls_mcp.emulator.voice.instructions import Fetched, Instructions
from calls_mcp.emulator.voice.twiml_elements import Element
from calls_mcp.emulator.webhooks import Cookies

FOREVER = float("inf")

T = TypeVar("T")


@dataclass
class Budget:
    """How much a call and those that it dials can still request. This ends endless loops.

    Attributes:
        documents: The number of documents.
        calls: The number of calls.
    """

    documents: int = 1000
    calls: int = 100


@dataclass
class Leg:
    """What is known about a call besides its record.

    Attributes:
        callee: The other party.
        instructions: The first document, None if the parties only talk.
        fallback: The document for errors.
        keys: The keys that are pressed after the answer.
        awaits_greeting: Whether the instructions begin after the greeting of a machine.
        is_incoming: Whether the call comes from outside, and the application answers it.
        is_dialed: Whether another call dialed it, and is connected to it after its instructions.
        budget: What it can still ask for, together with the call that dialed it.
        cookies: The cookies of the application.
        status: The latest known status of the call.
        entries: The number of entries in its transcript.
    """

    callee: Callee
    instructions: Instructions | None = None
    fallback: Instructions | None = None
    keys: str = ""
    awaits_greeting: bool = False
    is_incoming: bool = False
    is_dialed: bool = False
    budget: Budget = field(default_factory=Budget)
    cookies: Cookies = field(default_factory=Cookies)
    status: Status = "queued"
    entries: int = 0

    @classmethod
    def of_application(cls, application: Script, caller: Callee) -> Self:
        """Return what is known about an inbound call that an application answers."""
        fallback = application.voice_fallback_url
        return cls(
            caller,
            Instructions(application.voice_url or "", None, application.voice_method),
            Instructions(fallback) if fallback else None,
        )

    @classmethod
    def of_noun(cls, noun: Element, script: Script, budget: Budget) -> Self:
        """Return what is known about a call to the party that a noun in `<Dial>` names."""
        keys, url = noun.get("sendDigits"), noun.get("url")
        instructions = Instructions(url, None, noun.method()) if url else None
        if keys and instructions is None:
            instructions = Instructions(twiml="<Response/>")
        return cls(Callee(script), instructions, keys=keys, is_dialed=True, budget=budget)


# What happens during a wait


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
    """The conference has ended, or the talk with the call that served the queue."""


@dataclass(frozen=True)
class Gone:
    """The call has ended. The session must not wait again."""


Input = Pressed | Spoken | Changed | Connected | Released | Fetched | Gone
Steps = Generator[float, Input | None, T]
"""The execution of instructions. It yields when to stop waiting, and receives what happens."""


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


class Redirected(Exception):
    """The call continues with other instructions."""

    def __init__(self, instructions: Instructions) -> None:
        super().__init__(instructions.url)
        self.instructions = instructions


class Ended(Exception):
    """The call has ended, and with it the session."""
