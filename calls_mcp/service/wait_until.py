"""Wait until a call is answered, has ended or changes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

import anyio

from calls_mcp.errors import InvocationError
from calls_mcp.observability.current_request import request_context
from calls_mcp.service.grants import Grant, renewed_for
from calls_mcp.service.watching import Subscription, TooManyWatches, Topic, Watches
from calls_mcp.settings import Access
from calls_mcp.tools.call_summary import CallSummary
from calls_mcp.tools.catalog import Operation
from calls_mcp.tools.outcome import Failure, Outcome, ReportProgress

if TYPE_CHECKING:
    from calls_mcp.tools.validation import Arguments  # which would load jsonschema at start
    from calls_mcp.twilio.requests import Request

_SILENCE = 15.0  # seconds without a progress report, which keeps proxies from closing a stream
_OUTDATED = 10.0  # seconds without a response from the API; reads are less than 4 s apart
_AGAIN = "to keep waiting, call fetch_call again with the same arguments"
_BUSY = "the call was read only once, because this server already watches too many calls"
_STOPPED = "the server stopped waiting before the time was up"

Read = Callable[[], Awaitable[CallSummary]]
"""Reads the call once, or raises an `InvocationError`."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What to wait for, and how long: the `seconds` asked for, and at most `deadline` seconds."""

    condition: str
    seconds: float
    deadline: float

    @classmethod
    def asked_in(cls, arguments: "Arguments", deadline: float) -> Self | None:
        """Return the wait that arguments ask for, if any."""
        own, usual = arguments.own, arguments.operation.parameters.get("wait_seconds")
        if "wait_until" not in own or usual is None:
            return None
        seconds = float(own.get("wait_seconds", cast("int", usual.default)))
        return cls(own["wait_until"], seconds, deadline)

    @property
    def most(self) -> float:
        """How many seconds to wait at most."""
        return min(self.seconds, self.deadline)

    def is_over(self, before: CallSummary, call: CallSummary) -> bool:
        """Return whether there is nothing to wait for; an ended call does not change."""
        is_answered = self.condition == "answered" and call.status == "in-progress"
        has_changed = self.condition == "change" and call.status != before.status
        return call.live is False or is_answered or has_changed

    def still(self, call: CallSummary, age: float, failure: Failure | None) -> str:
        """Return the warning that the time is up.

        `call` was read `age` seconds ago. `failure` is that of the last read, if it failed.
        """
        status = call.status or "of unknown status"
        if failure:
            why = f"{failure.message} {failure.hint.removesuffix('.')}"
            return f"the last read failed; the call was {status} {age:.0f} s ago. {why}"
        if age >= _OUTDATED:
            state = f"the call was {status} before"
            return f"the API has not responded for {age:.0f} s; {state}; {_AGAIN}"
        limit = " (limited by CALLS_MCP_DEADLINE)" if round(self.most) < self.seconds else ""
        return f"the call is still {status} after {self.most:.2g} s{limit}; {_AGAIN}"


@dataclass(slots=True, eq=False)
class _WaitReader:
    """Reads a call for one principal while their token permits it. The reads are not counted."""

    seen: Topic
    operation: Operation
    principal: str
    grant: Grant | None
    clock: Callable[[], float]
    read: Read

    async def topic(self) -> Topic | None:
        if self.grant is None:
            return self.seen
        renewed = await renewed_for(self.operation, self.grant, self.clock())
        is_same = renewed is not None and renewed.overrides == self.grant.overrides
        return self.seen if is_same else None

    async def fetch(self) -> Outcome:
        with request_context(None, self.principal):
            try:
                return Outcome(outcome="done", call=await self.read())
            except InvocationError as error:
                return Outcome.from_error(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Waits for a call for one request.

    `grant` is that of the principal's token, if any, and the call is read with `access`. `clock`
    returns epoch seconds.
    """

    watches: Watches
    access: Access
    operation: Operation
    principal: str
    grant: Grant | None
    clock: Callable[[], float]
    report: ReportProgress

    async def wait(self, wait: Wait, call: CallSummary, request: "Request", read: Read) -> Outcome:
        """Return the call once the wait is over, or with a warning once the time is up.

        `call` is what `read` has just returned. Errors that may be transient are retried.
        """
        if wait.is_over(call, call):
            return _done(call)
        topic = Topic(self.access, request.account_sid, request.sid)
        reader = _WaitReader(topic, self.operation, self.principal, self.grant, self.clock, read)
        waiter = Subscription(self.principal, request.sid, topic, reader, is_waiting=True)
        try:
            with self.watches.waiting(waiter, call):
                return await _until_over(wait, call, waiter, _Progress(self.report, wait.most))
        except TooManyWatches:
            return _done(call, _BUSY)


class _Progress:
    """Reports each status of a call for `seconds`. Repeats one that stays the same for a while."""

    def __init__(self, report: ReportProgress, seconds: float) -> None:
        self._report = report
        self._begun = self._told_at = anyio.current_time()
        self._seconds = seconds
        self._told: str | None = None

    @property
    def is_up(self) -> bool:
        """Whether the time is up."""
        return anyio.current_time() >= self._begun + self._seconds

    @property
    def next_at(self) -> float:
        """When to do something even if there is no news (anyio's clock)."""
        return min(self._begun + self._seconds, self._told_at + _SILENCE)

    async def tell(self, call: CallSummary) -> None:
        status, now = call.status or "status unknown", anyio.current_time()
        if status != self._told or now >= self._told_at + _SILENCE:
            self._told, self._told_at = status, now
            await self._report(now - self._begun, self._seconds, status)


async def _until_over(
    wait: Wait, before: CallSummary, waiter: Subscription, progress: _Progress
) -> Outcome:
    call, read_at = before, anyio.current_time()
    failure: Failure | None = None
    while True:
        await progress.tell(call)
        if wait.is_over(before, call):
            return _done(call)
        if progress.is_up:
            return _done(call, wait.still(call, anyio.current_time() - read_at, failure))
        with anyio.CancelScope(deadline=progress.next_at):
            outcome = await waiter.next_read()
            if outcome is None:
                return _done(call, _STOPPED)
            failure = outcome.error
            if failure and not failure.retryable:
                return outcome
            if outcome.call:
                call, read_at = outcome.call, anyio.current_time()


def _done(call: CallSummary, *warnings: str) -> Outcome:
    return Outcome(outcome="done", call=call, warnings=warnings)
