"""The path: a model's dict → `Outcome`. It knows no protocol, and can be entered again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from calls_mcp.approvals import Approvals, Claim, expired
from calls_mcp.arguments import Arguments, check
from calls_mcp.catalog import Confirm, Json, Operation
from calls_mcp.cursor import Cursors
from calls_mcp.errors import InvocationError
from calls_mcp.failures import lost
from calls_mcp.guard import Binding, Situation, ask, bind, needs_confirmation, state_of
from calls_mcp.listing import Report, collect
from calls_mcp.outcome import Approval, CallSummary, Outcome
from calls_mcp.summary import Unreadable, summarize
from calls_mcp.twilio import TwilioClient
from calls_mcp.wire import Request, encode


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator has settled for every invocation.

    `result_bytes` bounds the JSON of one result; `sandbox` marks each as not real.
    """

    account_sid: str
    confirm: Confirm = "all"
    result_bytes: int = 64_000
    sandbox: bool = False


async def unheard(_done: int, _total: int) -> None:
    """A `Report` to nobody."""


class Invoker:
    """Runs operations against one Calls API, on one set of terms."""

    def __init__(
        self,
        twilio: TwilioClient,
        approvals: Approvals,
        cursors: Cursors,
        terms: Terms,
        clock: Callable[[], float],
    ) -> None:
        self._twilio = twilio
        self._approvals = approvals
        self._cursors = cursors
        self._terms = terms
        self._clock = clock

    async def invoke(
        self,
        operation: Operation,
        raw: Mapping[str, Json],
        principal: str,
        approval: Approval | None = None,
        report: Report = unheard,
    ) -> Outcome:
        """Do what `raw` asks for, or say what must be confirmed first, or why it can't be done."""
        try:
            arguments = check(operation, raw)
            if operation.read_only:
                outcome = await self._read(arguments, report)
            else:
                outcome = await self._change(arguments, principal, approval)
        except InvocationError as error:
            outcome = failed(error)
        return {**outcome, "sandbox": True} if self._terms.sandbox else outcome

    async def _read(self, arguments: Arguments, report: Report) -> Outcome:
        if arguments.operation.returns == "calls":
            return await self._list(arguments, report)
        return {"outcome": "done", "call": await self._fetch(self._encode(arguments))}

    async def _list(self, arguments: Arguments, report: Report) -> Outcome:
        query = self._cursors.resume(arguments)
        listing = await collect(
            self._twilio.send,
            self._encode(query.arguments),
            query.start,
            limit=query.limit,
            budget=self._terms.result_bytes,
            report=report,
        )
        outcome: Outcome = {
            "outcome": "done",
            "calls": listing.calls,
            "count": len(listing.calls),
        }
        if listing.next is not None:
            outcome["next_cursor"] = self._cursors.issue(query, listing.next)
        return _with_warnings(outcome, listing.warnings)

    async def _change(
        self, arguments: Arguments, principal: str, approval: Approval | None
    ) -> Outcome:
        request = self._encode(arguments)
        binding = bind(arguments, request.account_sid, principal)
        if approval is None and "confirmation_token" in arguments.own:
            approval = Approval(arguments.own["confirmation_token"])
        if approval is None and needs_confirmation(arguments, self._terms.confirm):
            return await self._ask(arguments, request, binding)
        if approval is None:
            return await self._act(arguments, request)
        if not approval.approved:
            return await self._approvals.decline(approval.token, binding, approval.reason)
        return await self._act_once(arguments, request, approval.token, binding)

    async def _ask(self, arguments: Arguments, request: Request, binding: Binding) -> Outcome:
        question = ask(arguments, await self._situation(request))
        confirmation = await self._approvals.issue(question, binding)
        outcome: Outcome = {"outcome": "confirmation_required", "confirmation": confirmation}
        return _with_warnings(outcome, arguments.warnings)

    async def _act_once(
        self, arguments: Arguments, request: Request, token: str, binding: Binding
    ) -> Outcome:
        claim = await self._approvals.claim(token, binding)
        if not isinstance(claim, Claim):
            return claim
        outcome = failed(lost(request, "the invocation was broken off before an answer came"))
        try:
            outcome = await self._act_if_unchanged(arguments, request, claim.state)
        except InvocationError as error:
            outcome = failed(error)
        finally:
            await self._approvals.settle(claim.identifier, outcome)
        return outcome

    async def _act_if_unchanged(
        self, arguments: Arguments, request: Request, state: str
    ) -> Outcome:
        situation = await self._situation(request)
        now = state_of(situation.call)
        if now != state:
            return expired(f"The call has changed since it was shown: it was {state}, it is {now}.")
        return await self._act(arguments, request)

    async def _act(self, arguments: Arguments, request: Request) -> Outcome:
        payload = await self._twilio.send(request)
        if arguments.operation.returns == "deleted":
            return {"outcome": "done", "deleted": str(arguments.values["sid"])}
        call = _read_call(request, payload)
        warnings = list(arguments.warnings)
        if "status" in arguments.values and call.get("live"):
            warnings.append(f"the call has not ended: it is {call.get('status')}")
        return _with_warnings({"outcome": "done", "call": call}, warnings)

    async def _situation(self, request: Request) -> Situation:
        call = None
        if request.effect != "place":
            call = await self._fetch(request.as_fetch())
        return Situation(request.account_sid, call, datetime.fromtimestamp(self._clock(), UTC))

    async def _fetch(self, request: Request) -> CallSummary:
        return _read_call(request, await self._twilio.send(request))

    def _encode(self, arguments: Arguments) -> Request:
        return encode(arguments, self._terms.account_sid)


def failed(error: InvocationError) -> Outcome:
    """The outcome of an invocation that failed."""
    return {"outcome": "error", "error": error.failure()}


def _read_call(request: Request, payload: Mapping[str, Json]) -> CallSummary:
    """The call in an answer, which must be the one that was asked for."""
    try:
        call = summarize(payload)
    except Unreadable as unreadable:
        raise lost(request, str(unreadable)) from unreadable
    if request.sid not in ("", call["sid"]) or call.get("account_sid") != request.account_sid:
        raise lost(request, "the API's answer is about another call")
    return call


def _with_warnings(outcome: Outcome, warnings: list[str] | tuple[str, ...]) -> Outcome:
    return cast("Outcome", {**outcome, "warnings": [*warnings]}) if warnings else outcome
