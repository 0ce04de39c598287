"""The request path: one tool call, from its arguments to its `Outcome`. It knows nothing of MCP."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio

from calls_mcp.errors import InvalidArguments, InvocationError, PolicyDenied, Unavailable
from calls_mcp.guard.policy.rules import Policy
from calls_mcp.guard.policy.tool_call_rules import count_tool_call, judge_account
from calls_mcp.observability import telemetry
from calls_mcp.service.listing import Cursors, collect
from calls_mcp.service.wait_until import Wait, Waiting
from calls_mcp.storage.rate_limits import RateLimiter
from calls_mcp.tools.catalog import Json, Operation
from calls_mcp.tools.outcome import Answer, Caller, Outcome, ReportProgress
from calls_mcp.tools.validation import Arguments, validate
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Request, encode

if TYPE_CHECKING:  # a read needs no guard
    from calls_mcp.guard.execution import Executor


async def ignore_progress(_done: float, _total: float, _what: str) -> None:
    """Ignore a progress report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoker:
    """Runs operations on one account of the Calls API with one policy.

    `deadline` limits an invocation in seconds, and `result_tokens` the size of a list.
    `sandbox` marks each result as not real. `executor` returns what executes changes.
    """

    account_sid: str
    policy: Policy
    twilio: TwilioClient
    rates: RateLimiter
    executor: "Callable[[], Awaitable[Executor]]"
    cursors: Cursors
    deadline: float
    result_tokens: int
    sandbox: bool

    async def invoke(
        self,
        operation: Operation,
        raw: Mapping[str, Json],
        caller: Caller,
        answer: Answer | None = None,
        report: ReportProgress = ignore_progress,
        waiting: Waiting | None = None,
    ) -> Outcome:
        """Return the outcome of an operation: done, failed, or a confirmation to ask for.

        After a confirmation, call this again with the same arguments and the answer. Only with
        `waiting` can it wait for a call.
        """
        try:
            if answer is None or answer.by != "server":  # the approved request was counted
                await count_tool_call(self.rates, self.policy.caps, operation, caller.principal)
            arguments = self._validated(operation, raw, caller.principal)
            if operation.read_only:
                outcome = await self._read(arguments, caller, report, waiting)
            else:
                outcome = await self._change(arguments, caller, answer, report)
        except InvocationError as error:
            outcome = Outcome.from_error(error)
            if isinstance(error, PolicyDenied):
                telemetry.record_denial(operation.name, error.rule)
        outcome = outcome.with_cut_texts()
        sid = outcome.call.sid if outcome.call else ""
        telemetry.record_invocation(
            operation.name, outcome.outcome, error_kind=outcome.error_kind, sid=sid
        )
        return outcome.model_copy(update={"sandbox": True}) if self.sandbox else outcome

    def _validated(
        self, operation: Operation, raw: Mapping[str, Json], principal: str
    ) -> Arguments:
        """Return the valid arguments, or raise all faults at once, with that of the cursor."""
        try:
            return validate(operation, raw)
        except InvalidArguments as invalid:
            if any(fault.path == "/cursor" for fault in invalid.faults):
                raise
            cursor = raw.get("cursor") if operation.returns == "calls" else None
            faults = self.cursors.faults(cursor, principal)
            raise InvalidArguments([*invalid.faults, *faults]) from None

    async def _change(
        self,
        arguments: Arguments,
        caller: Caller,
        answer: Answer | None,
        report: ReportProgress,
    ) -> Outcome:
        if answer is None and "confirmation_token" in arguments.own:
            answer = Answer(arguments.own["confirmation_token"])
        until = anyio.current_time() + self.deadline
        executor = await self.executor()
        with telemetry.guard_span():
            decision = await executor.guard.decide(arguments, caller, until, answer, report)
        if isinstance(decision, Outcome):
            return decision
        return await executor.execute(decision)

    async def _read(
        self,
        arguments: Arguments,
        caller: Caller,
        report: ReportProgress,
        waiting: Waiting | None,
    ) -> Outcome:
        until = anyio.current_time() + self.deadline
        try:
            with anyio.fail_after(self.deadline):
                if arguments.operation.returns == "calls":
                    return await self._list(arguments, caller, report)
                request = self._encode(arguments)
                call = await self.twilio.read_call(request)
        except TimeoutError as late:
            raise Unavailable(
                f"Nothing could be read: no response within {self.deadline:g} s.",
                "It is safe to try again later. A list is faster with a lower limit.",
            ) from late
        wait = Wait.asked_in(arguments, until - anyio.current_time())
        if wait is None or waiting is None:
            return Outcome(outcome="done", call=call)
        return await waiting.wait(wait, call, request, partial(self.twilio.read_call, request))

    async def _list(self, arguments: Arguments, caller: Caller, report: ReportProgress) -> Outcome:
        principal = caller.principal
        listed, bounds, start = self.cursors.resume(arguments, principal, self.result_tokens)
        request = self._encode(listed)
        listing = await collect(self.twilio, request, start, bounds, report)
        following = listing.next and self.cursors.issue(listed, listing.next, principal)
        return Outcome(
            outcome="done",
            calls=tuple(listing.calls),
            account_sid=request.account_sid,
            count=len(listing.calls),
            next_cursor=following,
            warnings=(*arguments.warnings, *listing.warnings),
        )

    def _encode(self, arguments: Arguments) -> Request:
        request = encode(arguments, self.account_sid)
        judge_account(self.policy, request.account_sid)
        return request
