"""The path: a model's dict → `Outcome`. It knows no protocol, and can be entered again."""

from collections.abc import Mapping
from dataclasses import dataclass

import anyio

from calls_mcp.errors import InvocationError, PolicyDenied, Unavailable
from calls_mcp.guard.decisions import Change
from calls_mcp.guard.execution import Changes
from calls_mcp.guard.policy import Policy, judge_account
from calls_mcp.guard.rate_limit import Throttle
from calls_mcp.observability import telemetry
from calls_mcp.service.cursors import Cursors
from calls_mcp.service.listing import Bounds, collect
from calls_mcp.tools.catalog import Json, Operation
from calls_mcp.tools.outcome import Approval, Caller, Outcome, ReportProgress
from calls_mcp.tools.validation import Arguments, validate
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Request, encode
from calls_mcp.twilio.responses import read_call


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator has settled for every invocation.

    `deadline` bounds an invocation, in seconds, and `result_bytes` the JSON of one result;
    `sandbox` marks each as not real.
    """

    account_sid: str
    deadline: float
    result_bytes: int = 64_000
    sandbox: bool = False


async def unheard(_done: float, _total: float, _what: str) -> None:
    """A `ReportProgress` to nobody."""


class Invoker:
    """Runs operations against one Calls API, on one set of terms."""

    def __init__(
        self,
        twilio: TwilioClient,
        changes: Changes,
        cursors: Cursors,
        throttle: Throttle,
        policy: Policy,
        terms: Terms,
    ) -> None:
        self._throttle = throttle
        self._policy = policy
        self._twilio = twilio
        self._changes = changes
        self._cursors = cursors
        self._terms = terms

    async def invoke(
        self,
        operation: Operation,
        raw: Mapping[str, Json],
        caller: Caller,
        approval: Approval | None = None,
        report: ReportProgress = unheard,
    ) -> Outcome:
        """Do what `raw` asks for, or say what must be confirmed first, or why it can't be done."""
        try:
            await self._throttle.admit(operation, caller.principal)
            arguments = validate(operation, raw)
            if approval is None and "confirmation_token" in arguments.own:
                approval = Approval(arguments.own["confirmation_token"])
            if operation.read_only:
                outcome = await self._read_in_time(arguments, caller, report)
            else:
                until = anyio.current_time() + self._terms.deadline
                change = Change(arguments, caller, self._terms.account_sid, until)
                outcome = await self._changes.run(change, approval, report)
        except InvocationError as error:
            outcome = Outcome.from_error(error)
            if isinstance(error, PolicyDenied):
                telemetry.record_denial(operation.name, error.rule)
        sid = outcome.call.sid if outcome.call else ""
        telemetry.record_invocation(
            operation.name, outcome.outcome, error_kind=outcome.error_kind, sid=sid
        )
        return outcome.model_copy(update={"sandbox": True}) if self._terms.sandbox else outcome

    async def _read_in_time(
        self, arguments: Arguments, caller: Caller, report: ReportProgress
    ) -> Outcome:
        try:
            with anyio.fail_after(self._terms.deadline):
                return await self._read(arguments, caller, report)
        except TimeoutError as late:
            raise Unavailable(
                f"Nothing could be read: no answer within {self._terms.deadline:g} s.",
                "It is safe to call again in a little while; a list is quicker with a lower limit.",
            ) from late

    async def _read(self, arguments: Arguments, caller: Caller, report: ReportProgress) -> Outcome:
        if arguments.operation.returns == "calls":
            return await self._list(arguments, caller, report)
        request = self._encode(arguments)
        call = read_call(request, await self._twilio.send(request))
        return Outcome(outcome="done", call=call)

    async def _list(self, arguments: Arguments, caller: Caller, report: ReportProgress) -> Outcome:
        query = self._cursors.resume(arguments, caller.principal)
        request = self._encode(query.arguments)
        listing = await collect(
            self._twilio.send,
            request,
            query.start,
            Bounds(query.limit, self._terms.result_bytes),
            report,
        )
        return Outcome(
            outcome="done",
            calls=tuple(listing.calls),
            account_sid=request.account_sid,
            count=len(listing.calls),
            next_cursor=self._cursors.issue(query, listing.next) if listing.next else None,
            warnings=tuple(listing.warnings),
        )

    def _encode(self, arguments: Arguments) -> Request:
        request = encode(arguments, self._terms.account_sid)
        judge_account(self._policy, request.account_sid)
        return request
