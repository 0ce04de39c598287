"""A session executes the instructions of one call, verb by verb.

A verb is a generator. It yields the time until which it waits, and receives what happens before:
an `Input`, or None at that time. So a session needs neither a clock nor a thread, and an
hour on hold takes no time on a clock that is moved ahead.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from calls_mcp.emulator.call_lifecycle import LIVE
from calls_mcp.emulator.recording_store import RecordingOptions, Source
from calls_mcp.emulator.scenario import DEFAULT_TALK, keys_seconds, speech_seconds
from calls_mcp.emulator.voice.call_leg import FOREVER, Budget, Ended, Gone, Leg, Redirected, Steps
from calls_mcp.emulator.voice.instructions import Fetched, Instructions, absolute
from calls_mcp.emulator.voice.switchboard import Switchboard
from calls_mcp.emulator.voice.twiml_elements import (
    SCHEMA_WARNING,
    Element,
    InstructionError,
    parse,
    warnings,
)

MOST_AT_ONCE = 100
"""How many documents and calls a call can ask for without any time passing."""
BEFORE_THE_ANSWER = frozenset({"Pause", "Redirect", "Reject"})
"""The verbs that do not answer an inbound call."""
_APOLOGY = "We are sorry, an application error has occurred. Goodbye."
APOLOGY = Instructions(twiml=f"<Response><Say>{_APOLOGY}</Say></Response>")

T = TypeVar("T")


class HangUp(Exception):
    """The instructions end the call."""


class LeaveQueue(Exception):
    """The instructions that are heard in a queue leave it."""


# The session


class Session:
    """The execution of one call's instructions.

    Attributes:
        sid: The call.
        leg: What is known about the call.
        switchboard: Does everything that involves other parties.
        url: The URL of the present document, empty if it came with a request.
    """

    def __init__(
        self, sid: str, leg: Leg, switchboard: Switchboard, verbs: "Mapping[str, Verb]"
    ) -> None:
        self.sid = sid
        self.leg = leg
        self.switchboard = switchboard
        self.url = ""
        self._verbs = verbs
        self._moment = 0.0
        self._at_once = 0

    @property
    def now(self) -> float:
        """The present time, in seconds since the epoch."""
        return self.switchboard.now

    @property
    def is_over(self) -> bool:
        """Whether the call has ended."""
        return self.leg.status not in LIVE

    def run(self) -> Steps[None]:
        """Execute the instructions until they end, and hang up."""
        instructions = self.leg.instructions
        prepare = self._prepare()
        while instructions is not None:
            try:
                yield from prepare
                yield from self.execute(instructions, self._verbs)
                if self.leg.is_dialed:
                    self.switchboard.connect(self.sid)
                    return
                self.note("hung up", "at the end of the instructions")
                instructions = None
            except HangUp as reason:
                self.note("hung up", str(reason))
                instructions = None
            except Redirected as redirection:
                instructions = redirection.instructions
            except InstructionError as error:
                self._note_error(error)
                instructions = self._after(error, instructions)
        self.switchboard.hang_up(self.sid)

    def execute(self, instructions: Instructions, verbs: "Mapping[str, Verb]") -> Steps[None]:
        """Execute one document to its end, and skip verbs other than these.

        Raises:
            HangUp: It ends the call.
            Redirected: It continues with another document.
            InstructionError: It cannot be fetched or executed.
        """
        for verb in (yield from self._document(instructions)):
            for warning in warnings(verb):
                self.note("warning", warning, code=str(SCHEMA_WARNING))
            if verb.name not in verbs:
                self.note("skipped", f"<{verb.name}>, which is not executed here")
                continue
            if self.leg.is_incoming and verb.name not in BEFORE_THE_ANSWER:
                self.switchboard.answer(self.sid)
            yield from verbs[verb.name](self, verb)
        if self.leg.is_incoming:
            self.switchboard.answer(self.sid)

    def note(self, event: str, text: str = "", **details: str) -> None:
        """Add an entry to the transcript. Empty details are left out."""
        details = {name: value for name, value in details.items() if value}
        self.switchboard.note(self.sid, event, text, **details)

    def wait(self, seconds: float) -> Steps[None]:
        """Let time pass. What happens meanwhile is lost."""
        yield from self.await_input((), self.now + seconds)

    def await_input(self, kinds: "tuple[type[T], ...]", until: float = FOREVER) -> Steps[T | None]:
        """Wait for the first input of these types, and return it; return None at `until`."""
        while (received := (yield until)) is not None:
            if isinstance(received, Gone):
                raise Ended
            if isinstance(received, kinds):
                return received
        return None

    def proceed(self, verb: Element, parameters: Mapping[str, str]) -> None:
        """Continue with the verb's action, if any; after the call, only send it the parameters."""
        action = verb.get("action")
        if self.is_over:
            if url := self.callback(verb, "action"):
                self.switchboard.fetch(self.sid, Instructions(url, None, verb.method(), parameters))
            raise Ended
        if action:
            raise Redirected(Instructions(action, None, verb.method(), parameters))

    def callback(self, element: Element, name: str) -> str:
        """Return the absolute URL in an attribute, empty if there is none or it is invalid."""
        url = element.get(name)
        try:
            return url and absolute(url, self.url)
        except InstructionError as error:
            self._note_error(error)
            return ""

    def spend(self, *, documents: int = 0, calls: int = 0) -> None:
        """Count what the call asks for.

        Raises:
            HangUp: It has asked for too much.
        """
        budget = self.leg.budget
        budget.documents -= documents
        budget.calls -= calls
        self._at_once = self._at_once + 1 if self._moment == self.now else 1
        self._moment = self.now
        if self._at_once > MOST_AT_ONCE:
            raise HangUp(f"after {MOST_AT_ONCE} documents or calls in a row without a pause")
        if min(budget.documents, budget.calls) < 0:
            most = Budget()
            raise HangUp(f"after {most.documents} documents or {most.calls} calls")

    def save_recording(
        self, source: Source, verb: Element, started: float, channels: int
    ) -> Mapping[str, str]:
        """Keep a recording that ends now, and return the parameters that describe it."""
        self.note("recorded", f"{self.now - started:.0f} s")
        options = RecordingOptions(
            channels=channels,
            callback_url=self.callback(verb, "recordingStatusCallback") or None,
            callback_method=verb.method("recordingStatusCallbackMethod"),
            callback_events=verb.get("recordingStatusCallbackEvent", "completed"),
        )
        return self.switchboard.save_recording(self.sid, source, started, options)

    def _prepare(self) -> Steps[None]:
        if self.leg.awaits_greeting and (greeting := self.leg.callee.script.greeting):
            yield from self.wait(speech_seconds(greeting))
        if self.leg.keys:
            self.note("pressed", self.leg.keys, by="application")
            self.switchboard.press(self.sid, self.leg.keys)
            yield from self.wait(keys_seconds(self.leg.keys))

    def _document(self, instructions: Instructions) -> Steps[tuple[Element, ...]]:
        self.spend(documents=1)
        if instructions.twiml is not None:
            self.url = ""
            return parse(instructions.twiml)
        instructions = instructions.resolved(self.url)
        if not self.switchboard.can_reach(instructions.url):
            yield from self._talk_without_instructions(instructions.url)
        self.switchboard.fetch(self.sid, instructions)
        fetched = None
        while fetched is None or fetched.instructions is not instructions:
            fetched = yield from self.await_input((Fetched,))
        self.url = fetched.url
        self.note("fetched", fetched.url, **fetched.outcome)
        return fetched.document()

    def _talk_without_instructions(self, url: str) -> Steps[None]:
        """Let the parties talk, because the instructions are out of reach."""
        self.note("skipped", f"the instructions at {url}, which are on another machine")
        leaves = self.leg.callee.script.talk_for is not None
        yield from self.wait(FOREVER if leaves else DEFAULT_TALK)
        raise HangUp("after talking")

    def _note_error(self, error: InstructionError) -> None:
        self.note("error", error.message, code=str(error.code), url=error.url)

    def _after(self, error: InstructionError, failed: Instructions) -> Instructions | None:
        """Return what follows an error, None if the apology failed."""
        fallback = self.leg.fallback
        if failed is APOLOGY:
            return None
        if fallback is None or failed.url == fallback.url:
            return APOLOGY
        return replace(fallback, parameters={"ErrorCode": str(error.code), "ErrorUrl": error.url})


Verb = Callable[[Session, Element], Steps[None]]
"""Executes a verb of a session."""
