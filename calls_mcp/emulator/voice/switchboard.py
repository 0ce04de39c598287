"""The switchboard runs the sessions of all calls, in the order of time, and connects them."""

import heapq
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count

from calls_mcp.emulator import call_lifecycle
from calls_mcp.emulator.addresses import is_address
from calls_mcp.emulator.api_errors import CALL_STATE, ApiError, invalid
from calls_mcp.emulator.call_lifecycle import Call, Status, new_sid, planned
from calls_mcp.emulator.call_store import CallStore
from calls_mcp.emulator.callbacks import call_parameters
from calls_mcp.emulator.recording_store import RecordingOptions, Source
from calls_mcp.emulator.scenario import (
    VALID_FROM,
    AnsweredBy,
    Callee,
    Reaction,
    Scenario,
    Script,
    key_times,
)
from calls_mcp.emulator.transcripts import LONGEST, TranscriptEntry
from calls_mcp.emulator.voice.call_leg import (
    FOREVER,
    Changed,
    Connected,
    Ended,
    Gone,
    Input,
    Leg,
    Party,
    Pressed,
    Redirected,
    Released,
    Spoken,
    Steps,
)
from calls_mcp.emulator.voice.conferences_and_queues import Conferences, Queues
from calls_mcp.emulator.voice.instructions import Documents, Fetched, Instructions
from calls_mcp.emulator.voice.twiml_elements import Element
from calls_mcp.emulator.webhooks import Webhooks

RunInstructions = Callable[[str, Leg, "Switchboard"], Steps[None]]
"""Executes the instructions of a call."""


@dataclass(frozen=True)
class _Wake:
    """The end of a wait, if the session has not moved on meanwhile."""

    turn: int


@dataclass(frozen=True)
class _Left:
    """The other party hangs up."""


@dataclass
class _Running:
    steps: Steps[None]
    turn: int = 0


_Event = Input | _Wake | _Left | Instructions


class Switchboard:
    """Executes instructions, and plays the other parties.

    It holds an agenda of what happens when, and whatever happens is handled in a transaction of
    the store, so that calls and sessions always agree.
    """

    def __init__(
        self,
        store: CallStore,
        scenario: Scenario,
        own_numbers: Collection[str],
        webhooks: Webhooks,
        run_instructions: RunInstructions,
    ) -> None:
        self._store = store
        self._scenario = scenario
        self._own_numbers = own_numbers
        self._webhooks = webhooks
        self._run_instructions = run_instructions
        self._documents = Documents(webhooks, store, self._arrived)
        self._numbers = count(1)
        self._forget()
        store.timers = self

    def _forget(self) -> None:
        self._agenda: list[tuple[float, int, str, _Event]] = []
        self._legs: dict[str, Leg] = {}
        self._running: dict[str, _Running] = {}
        self._watchers: defaultdict[str, set[str]] = defaultdict(set)
        self._conferences = Conferences()
        self._queues = Queues()

    # Time

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Fetch documents while the context is open, and end all calls with a session on exit."""
        try:
            yield
        finally:
            await self._documents.cancel()
            if self._running:
                self._stop()

    async def settle(self) -> None:
        """Wait until no document is being fetched."""
        await self._documents.settle()

    def next_due(self) -> float:
        """Return when something happens next, infinity if nothing will."""
        return self._agenda[0][0] if self._agenda else FOREVER

    def run(self, now: float) -> None:
        """Handle everything until now."""
        while self.next_due() <= now:
            _, _, sid, event = heapq.heappop(self._agenda)
            self._handle(sid, event)

    def changed(self, call: Call) -> None:
        """Take note of a call that was written."""
        leg = self._legs.get(call.sid)
        if leg is not None and leg.status != call.status:
            leg.status = call.status
            self._post(self.now, call.sid, Changed(call))

    def clear(self) -> None:
        """Forget every call, and delete what the sessions write while they are closed."""
        with self._store.transaction():
            self._close_sessions()
            self._forget()
            self._store.clear()

    def _stop(self) -> None:
        """End the calls with a session, because no emulator continues them."""
        with self._store.transaction() as now:
            executed = [*self._running]
            self._close_sessions()
            for sid in executed:
                self.hang_up(sid, "no-answer")
            self.run(now)

    def _close_sessions(self) -> None:
        with self._store.transaction():
            for running in self._running.values():
                running.steps.close()
            self._running.clear()

    def _post(self, at: float, sid: str, event: _Event) -> None:
        heapq.heappush(self._agenda, (at, next(self._numbers), sid, event))

    def _handle(self, sid: str, event: _Event) -> None:
        if sid not in self._legs:
            return
        call = self._store.get(sid)
        if call is None or not call.live:
            self._end(sid, call)
        else:
            self._pass_on(sid, event)

    def _pass_on(self, sid: str, event: _Event) -> None:
        running = self._running.get(sid)
        match event:
            case _Wake(turn):
                if running and running.turn == turn:
                    self._resume(sid, running, None)
                return
            case _Left():
                self.note(sid, "hung up", "by the other party")
                self.hang_up(sid, "canceled" if self._legs[sid].is_incoming else "busy")
                return
            case Changed(changed) if changed.sid == sid:
                self._follow(changed)
                return
            case Instructions():
                self._redirect(sid, event)
                return
            case Pressed(key):
                self.note(sid, "pressed", key)
            case Spoken(text):
                self.note(sid, "spoke", text)
            case _:
                pass
        if running:
            self._resume(sid, running, event)

    def _resume(self, sid: str, running: _Running, event: Input | Redirected | None) -> None:
        """Continue the execution of a call's instructions until it waits again."""
        running.turn += 1
        try:
            if isinstance(event, Redirected):
                until = running.steps.throw(event)
            else:
                until = running.steps.send(event)
        except (StopIteration, Ended):
            self._running.pop(sid, None)
            return
        if until < FOREVER:
            self._post(until, sid, _Wake(running.turn))

    # Calls

    def ring(self, to: str, from_: str, caller: Script) -> Call:
        """Place a call from outside to a number of the account.

        Raises:
            ApiError: The number has no instructions (400).
        """
        application = self._scenario.application(to)
        if application is None:
            raise invalid(f"to: {to} has no voice_url in the scenario.")
        with self._store.transaction() as now:
            call = Call(
                sid=new_sid(),
                to=to,
                from_=from_,
                direction="inbound",
                status="queued",
                created=now,
                updated=now,
                ring_at=now,
                time_limit=call_lifecycle.DEFAULT_TIME_LIMIT,
                end_at=now + call_lifecycle.DEFAULT_TIMEOUT,
                end_as="no-answer",
            )
            leg = Leg.of_application(application, Callee(caller))
            leg.is_incoming = True
            self._legs[call.sid] = leg
            self._store.add(call)
        return call

    def update(self, call: Call) -> None:
        """Write a call, and update the plan of its other record."""
        self._store.update(call)
        if call.peer_sid and (peer := self._store.get(call.peer_sid)) and peer.live:
            self._store.update(call_lifecycle.following(peer, call))

    def redirect(self, sid: str, instructions: Instructions, fallback: Instructions | None) -> None:
        """Continue a call with other instructions."""
        leg = self._legs.get(sid)
        if leg is None:
            return
        leg.fallback = fallback or leg.fallback
        if leg.status == "in-progress":
            self._post(self.now, sid, instructions)
        else:
            leg.instructions = instructions

    def react(self, sid: str, reaction: Reaction) -> None:
        """Let the other party of a call do something now.

        Raises:
            ApiError: The call is not in progress (400). A call that rings can be hung up.
        """
        status = self.call(sid).status
        if status != "in-progress" and not (reaction.hang_up and status == "ringing"):
            raise invalid(f"The call is {status}, so nobody is on the phone.", CALL_STATE)
        self._schedule(sid, reaction, self.now)

    def _follow(self, call: Call) -> None:
        """Handle a change of a call's status."""
        leg = self._legs[call.sid]
        if call.status == "ringing" and leg.is_incoming:
            self._start(call.sid, leg)
        elif call.status == "in-progress":
            self._begin(call, leg)

    def _begin(self, call: Call, leg: Leg) -> None:
        """Handle the answer of a call."""
        if leg.is_incoming:
            self.note(call.sid, "answered", "by the application")
        else:
            self.note(call.sid, "answered", _by(leg.callee.script.answered_by))
        if greeting := leg.callee.script.greeting:
            self.note(call.sid, "spoke", greeting)
        for reaction in leg.callee.timed:
            self._schedule(call.sid, reaction, self.now + (reaction.at or 0))
        for watcher in self._watchers.get(call.sid, ()):
            self._post(self.now, watcher, Changed(call))
        if leg.instructions is not None and not leg.is_incoming:
            self._start(call.sid, leg)
        elif leg.instructions is None:
            self.connect(call.sid)

    def _start(self, sid: str, leg: Leg) -> None:
        call = self.call(sid)
        if leg.callee.script.talk_for is None and not leg.is_dialed:
            self.update(call_lifecycle.held(call, self.now))
        self._running[sid] = running = _Running(self._run_instructions(sid, leg, self))
        self._resume(sid, running, None)

    def _redirect(self, sid: str, instructions: Instructions) -> None:
        leg, running = self._legs[sid], self._running.get(sid)
        if running and not leg.is_dialed:
            self._resume(sid, running, Redirected(instructions))
            return
        if running:
            running.steps.close()
        self._notify(self.call(sid)._replace(status="completed"))  # to its caller, it has ended
        leg = replace(leg, instructions=instructions, keys="", is_dialed=False)
        self._legs[sid] = leg
        self._start(sid, leg)

    def _end(self, sid: str, call: Call | None) -> None:
        """End the session of a call that has ended or was deleted."""
        if running := self._running.pop(sid, None):
            if call is not None:
                self._legs[sid].status = call.status
                self._resume(sid, running, Gone())
            running.steps.close()
        if call is not None:
            details = {} if call.duration is None else {"duration": f"{call.duration} s"}
            self.note(sid, "ended", call.status, **details)
            self._notify(call)
        del self._legs[sid]

    def _arrived(self, sid: str, fetched: Fetched) -> None:
        """Pass a document on to its call; if it has ended, only add it to the transcript."""
        if sid in self._legs:
            self._post(self.now, sid, fetched)
        elif self._store.get(sid):
            self._add_entry(sid, "fetched", fetched.url, fetched.outcome)

    def _add_entry(self, sid: str, event: str, text: str, details: Mapping[str, str]) -> None:
        self._store.transcripts.add(sid, TranscriptEntry(self.now, event, text, details))

    def _notify(self, call: Call) -> None:
        for sid in self._watchers.pop(call.sid, ()):
            self._post(self.now, sid, Changed(call))

    def _schedule(self, sid: str, reaction: Reaction, at: float) -> None:
        if reaction.press:
            self._press(sid, reaction.press, at)
        elif reaction.say:
            self._post(at, sid, Spoken(reaction.say))
        else:
            self._post(at, sid, _Left())

    def _press(self, sid: str, keys: str, at: float) -> None:
        for key, seconds in key_times(keys):
            self._post(at + seconds, sid, Pressed(key))

    # What sessions ask for; `sid` is a call

    @property
    def now(self) -> float:
        """The present time, in seconds since the epoch."""
        return self._store.now

    def call(self, sid: str) -> Call:
        """Return the present record of a call."""
        call = self._store.get(sid)
        if call is None:
            raise LookupError(f"{sid} is not a call")
        return call

    def note(self, sid: str, event: str, text: str = "", **details: str) -> None:
        """Add an entry to the transcript."""
        leg = self._legs[sid]
        leg.entries += 1
        if leg.entries <= LONGEST:
            self._add_entry(sid, event, text, details)

    def owns(self, number: str) -> bool:
        """Return whether this is a phone number of the account."""
        return number == VALID_FROM or number in self._own_numbers

    def can_reach(self, url: str) -> bool:
        """Return whether documents may be requested from this URL."""
        return not self._webhooks.obstacle(url)

    def fetch(self, sid: str, instructions: Instructions) -> None:
        """Request a document, which arrives as `Fetched`, after the call only in the transcript."""
        form = call_parameters(self.call(sid))
        self._documents.fetch(sid, instructions, form, self._legs[sid].cookies)

    def answer(self, sid: str) -> None:
        """Answer a call from outside."""
        call, leg = self.call(sid), self._legs[sid]
        if call.status == "ringing":
            leg.status = "in-progress"  # so that it begins here, before what is said next
            answered = call_lifecycle.answered(call, self.now, leg.callee.script.talk_for)
            self.update(answered)
            self._begin(call, leg)

    def hang_up(self, sid: str, status: Status = "completed") -> None:
        """End a call, with this status if it was not answered."""
        call = self._store.get(sid)
        if call is None or not call.live:
            return
        is_answered = call.status == "in-progress"
        self.update(call_lifecycle.ended(call, self.now, "completed" if is_answered else status))

    def press(self, sid: str, keys: str) -> None:
        """Press keys for the other party to hear."""
        if peer := self.call(sid).peer_sid:
            self._press(peer, keys, self.now)

    def tell(self, sid: str, text: str) -> None:
        """Let the other party react to what it has just heard."""
        if reaction := self._legs[sid].callee.hear(text):
            self._schedule(sid, reaction, self.now + reaction.after)

    def dial(self, sid: str, party: Party) -> str:
        """Call someone for this call, and return the SID of the new call."""
        now, noun = self.now, party.noun
        call = Call(
            sid=new_sid(),
            to=party.to,
            from_=party.caller_id,
            direction="outbound-dial",
            status="queued",
            created=now,
            updated=now,
            ring_at=now + party.delay,
            parent_call_sid=sid,
            time_limit=call_lifecycle.DEFAULT_TIME_LIMIT,
            callback_url=noun.get("statusCallback") or None,
            callback_method=noun.method("statusCallbackMethod"),
            callback_events=noun.get("statusCallbackEvent", "completed"),
        )
        self.watch(sid, call.sid)
        script = self._script_of(party.to)
        self.place(
            planned(call, script, party.timeout), Leg.of_noun(noun, script, self._legs[sid].budget)
        )
        return call.sid

    def place(self, call: Call, leg: Leg) -> None:
        """Add a call. A call to a number of the account has a record at both ends."""
        if call.to not in self._own_numbers:
            self._legs[call.sid] = leg
            self._store.add(call)
            return
        call, inbound = call_lifecycle.both_records(call)
        self._legs[call.sid] = leg
        if application := self._scenario.application(call.to):
            caller = Callee(Script(talk_for=leg.callee.script.talk_for))
            answer = replace(Leg.of_application(application, caller), budget=leg.budget)
            answer.is_incoming = self._decides(application)
            self._legs[inbound.sid] = answer
        self._store.add(call, inbound)

    def script_of(self, to: str) -> Script:
        """Return the script of a destination. It only rings if an application decides.

        Raises:
            ApiError: The destination is a magic number that cannot be called (400).
        """
        script = self._scenario.script_of(to)
        is_own = to in self._own_numbers
        return replace(script, end_as="no-answer") if is_own and self._decides(script) else script

    def _decides(self, application: Script) -> bool:
        """Return whether an application runs while the call rings, before its script answers."""
        url = application.voice_url
        return url is not None and application.end_as == "completed" and self.can_reach(url)

    def watch(self, sid: str, other: str) -> None:
        """Receive `Changed` when another call is answered or ends."""
        self._watchers[other].add(sid)
        if (call := self._store.get(other)) and not call.live:
            self._notify(call)

    def connect(self, sid: str) -> None:
        """Connect a dialed call to the one that dialed it."""
        for watcher in self._watchers.get(sid, ()):
            self._post(self.now, watcher, Connected(sid))

    def join(self, sid: str, conference: Element) -> int:
        """Join a conference and return the number of its participants, 0 if it is full."""
        return self._conferences.join(sid, conference)

    def leave(self, sid: str) -> None:
        """Leave the conference or queue."""
        self._queues.leave(sid)
        for other in self._conferences.leave(sid):
            self.release(other)

    def enqueue(self, sid: str, queue: str, limit: int) -> int:
        """Join the end of a queue and return the position, 0 if the queue is full."""
        position = self._queues.join(sid, queue, limit)
        self._connect_queued(queue)
        return position

    def position(self, sid: str, queue: str) -> tuple[int, int]:
        """Return the position of a call in a queue, from 1, and the length of the queue."""
        return self._queues.position(sid, queue)

    def serve(self, sid: str, queue: str) -> None:
        """Take the first call of a queue, or wait for one; it arrives as `Connected`."""
        self._queues.serve(sid, queue)
        self._connect_queued(queue)

    def release(self, sid: str) -> None:
        """Let a call that was taken from a queue continue."""
        self._post(self.now, sid, Released())

    def save_recording(
        self, sid: str, source: Source, started: float, options: RecordingOptions
    ) -> Mapping[str, str]:
        """Keep a recording that ends now, and return the parameters that describe it."""
        recordings = self._store.recordings
        return recordings.summary(recordings.add(sid, source, started, self.now, options))

    def _connect_queued(self, queue: str) -> None:
        for first, server in self._queues.matches(queue):
            self._post(self.now, first, Connected(server))
            self._post(self.now, server, Connected(first))

    def _script_of(self, to: str) -> Script:
        try:
            if is_address(to):
                return self.script_of(to)
        except ApiError:
            pass
        return Script(end_as="failed", answer_after=0)


def _by(answered_by: AnsweredBy) -> str:
    kind = answered_by.partition("_")[0]
    return "by a person or a machine" if kind == "unknown" else f"by a {kind}"
