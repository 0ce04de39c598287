"""Decide whether a change may be sent: policy, then the client's user or the operator."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from calls_mcp.audit.log import AuditLog
from calls_mcp.audit.records import NOBODY, Authority, Entry
from calls_mcp.errors import (
    AuditUnavailable,
    InvalidConfirmation,
    InvocationError,
    NotFound,
    PolicyDenied,
)
from calls_mcp.guard.approval_requests import ApprovalRequests
from calls_mcp.guard.change import (
    Change,
    Stop,
    apply_policy,
    audit_entry,
    parties_of,
    state_of,
)
from calls_mcp.guard.confirmations import Claim, Confirmations, as_used, expired
from calls_mcp.guard.limits import CallLimits, Reservation
from calls_mcp.guard.policy.rules import Policy
from calls_mcp.guard.repeated_calls import EarlierCalls
from calls_mcp.observability import telemetry
from calls_mcp.storage.records import ApprovalRequest, PendingConfirmation
from calls_mcp.tools.call_summary import CallSummary
from calls_mcp.tools.outcome import Answer, Caller, Outcome, ReportProgress
from calls_mcp.tools.validation import Arguments
from calls_mcp.twilio.client import TwilioClient

if TYPE_CHECKING:
    from calls_mcp.guard.preview import Question

UNRECORDED = "this outcome could not be written to the audit log"

_SHOW = (
    "Nothing has happened yet. Show the preview to your user. Only if they agree, retry with "
    "the same arguments and this token as confirmation_token."
)
_OPERATORS = "Nothing was sent: the operator must approve this, and a token is not enough."
_USERS = "Nothing was sent: the client must ask its user, and a token is not enough."
_UNAPPROVED = "Nothing was sent: the operator has not approved this."
_WITHOUT = "Retry with the same arguments, without confirmation_token."
_LAPSED = (
    "The operator did not decide in time. Nothing was sent. Retry with the same arguments to "
    "make a new request."
)
_SERVER, _NOT_RECORDED = "the server", "The request could not be recorded."
_GONE = "The record of the call no longer exists."
_ASK_AGAIN = "If your user still wants this, retry to make a new request."
_READ_ONLY = (
    "CALLS_MCP_READ_ONLY",
    "this server is read-only",
    "Tell your user. The operator must unset CALLS_MCP_READ_ONLY to allow changes.",
)
_USER = "the user"
_NO_OPERATOR = (
    "the operator must approve this, but can't see requests that this server keeps in memory",
    "Tell your user that the operator must unset CALLS_MCP_STATE_URL, which is set to memory:.",
)
_NO_HUMAN = (
    "the user must confirm this, but this client can't ask them",
    (
        "Tell your user that this needs a client that supports elicitation, or that the operator "
        "must unset CALLS_MCP_STATE_URL (now memory:), so that they can approve it instead."
    ),
)


@dataclass(frozen=True, slots=True)
class Proceed:
    """The decision to send a change, and on whose authority.

    The receiver must settle the `claim` and the `reservation`. `is_awaited` is whether the
    outcome goes to the client. If not, its approval request stays open until the client repeats the
    tool call and gets the outcome.
    """

    change: Change
    authority: Authority = NOBODY
    claim: Claim | None = None
    reservation: Reservation | None = None
    is_awaited: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Applies the operator's policy to changes, and records the ones that are not sent.

    `account_sid` is the default account. Without `requests`, the operator can't be asked. `clock`
    returns epoch seconds. `is_read_only` refuses every change.
    """

    policy: Policy
    account_sid: str
    twilio: TwilioClient
    confirmations: Confirmations
    limits: CallLimits
    requests: ApprovalRequests | None
    audit: AuditLog
    clock: Callable[[], float]
    is_read_only: bool = False

    async def decide(
        self,
        arguments: Arguments,
        caller: Caller,
        until: float,
        answer: Answer | None,
        report: ReportProgress,
    ) -> Proceed | Outcome:
        """Return `Proceed` if a change may be sent, else the outcome for the client.

        Raises:
            AuditUnavailable: The decision could not be recorded, so nothing is sent.
        """
        try:
            change = self._apply_policy(arguments, caller, until)
        except PolicyDenied as denied:
            outcome, account_sid = Outcome.from_error(denied), self._account_sid(arguments)
            entry = audit_entry(arguments, account_sid, caller, "refused", denied.rule, NOBODY)
            await self._note(entry, outcome)
            return outcome
        try:
            decision = await self._decide(change, answer, report)
        except InvocationError as error:
            decision = Stop.failed(error)
        return await self._record(change, decision) if isinstance(decision, Stop) else decision

    async def _record(self, change: Change, stop: Stop) -> Outcome:
        """Record why a change is not sent, and return the outcome for the client.

        Raises:
            AuditUnavailable: It could not be recorded.
        """
        if stop.decision is None:
            return stop.outcome
        try:
            await self._note(change.entry(stop.decision, stop.authority, stop.rule), stop.outcome)
        except AuditUnavailable:
            if stop.decision == "asked":
                await self._withdraw_unrecorded(change, stop.authority)
            if stop.decision != "replayed":
                raise
            return stop.outcome.with_warnings([UNRECORDED])
        return stop.outcome

    async def withdraw_if_obsolete(
        self, identifier: str, arguments: Arguments, caller: Caller, until: float
    ) -> None:
        """Withdraw a pending request whose change could not be made even if approved."""
        request = await self.requests.find(identifier) if self.requests else None
        if request is None or request.decision is not None:
            return
        if reason := await self._obsolescence(request, arguments, caller, until):
            await self.withdraw(request, arguments, caller, reason)

    async def withdraw(
        self, request: ApprovalRequest, arguments: Arguments, caller: Caller, reason: str
    ) -> None:
        """Withdraw a request of this server unless it is decided, and record why."""
        if self.requests is not None and await self.requests.withdraw(request, _SERVER, reason):
            authority = Authority("none", _SERVER, request.identifier)
            entry = audit_entry(
                arguments, request.account_sid, caller, "withdrawn", request.rule, authority
            )
            await self.audit.record(replace(entry, reason=reason))

    async def _obsolescence(
        self, request: ApprovalRequest, arguments: Arguments, caller: Caller, until: float
    ) -> str:
        """Return why a retry would certainly fail even if the operator approved; else empty."""
        try:
            change = self._apply_policy(arguments, caller, until)
            pending = await self.confirmations.find(request.identifier, change.binding)
            return await self._staleness(change, pending.state, change) if pending else ""
        except NotFound:
            return _GONE
        except (PolicyDenied, InvalidConfirmation) as refused:
            return refused.message
        except InvocationError:  # it may succeed later
            return ""

    async def refuse(
        self, identifier: str, arguments: Arguments, caller: Caller, error: InvocationError
    ) -> None:
        """Record why the change of an approved request will not run, and settle the request.

        Raises:
            AuditUnavailable: It could not be recorded.
        """
        outcome, authority = Outcome.from_error(error), Authority("operator", "", identifier)
        account_sid = self._account_sid(arguments)
        entry = audit_entry(arguments, account_sid, caller, "refused", "", authority)
        await self._note(entry, outcome)
        await self.confirmations.end(identifier, outcome)

    @property
    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)

    def _account_sid(self, arguments: Arguments) -> str:
        return str(arguments.values.get("account_sid", self.account_sid))

    def _apply_policy(self, arguments: Arguments, caller: Caller, until: float) -> Change:
        """Return the change as the policy judges it now.

        Raises:
            PolicyDenied: The policy refuses it now.
        """
        if self.is_read_only:
            raise PolicyDenied(*_READ_ONLY)
        account_sid = self._account_sid(arguments)
        return apply_policy(self.policy, arguments, caller, account_sid, until, self._now)

    async def _note(self, entry: Entry, outcome: Outcome) -> None:
        entry = replace(entry, error_kind=outcome.error_kind)
        count_decision(entry)
        await self.audit.record(entry)

    async def _withdraw_unrecorded(self, change: Change, authority: Authority) -> None:
        if self.requests is not None and authority.approval_id:
            request = await self.requests.current(change.binding)
            if request and request.identifier == authority.approval_id:
                await self.requests.withdraw(request, _SERVER, _NOT_RECORDED)
                await self.requests.close(change.binding, request.identifier)

    async def _decide(
        self, change: Change, answer: Answer | None, report: ReportProgress
    ) -> Proceed | Stop:
        if answer is not None and answer.by == "server":
            return await self._act_on_approval(change, answer.token)
        if answer is not None and answer.by == "operator":
            return await self._withdraw(change, answer)
        if answer is not None and answer.by == "client":
            used = await self._withdraw_question(change, answer)
            return used or await self._decide(change, None, report)
        if requests := self._requests_for(change, answer):
            return await self._ask_operator(change, requests, report)
        if answer is None:
            return await self._ask_if_needed(change)
        identifier = self.confirmations.verify(answer.token)
        authority = Authority("token" if answer.by == "token" else "elicitation")
        return await self._act_on(change, identifier, answer, authority)

    def _requests_for(self, change: Change, answer: Answer | None) -> ApprovalRequests | None:
        """Return the approval requests if the operator must decide, else None."""
        by_user = answer.by == "elicitation" if answer else change.caller.can_ask
        is_operators = change.requirement == "operator"
        if not (is_operators or (change.requirement == "require_human" and not by_user)):
            return None
        if answer is not None and change.caller.can_ask and not is_operators:
            raise InvalidConfirmation(_USERS, _WITHOUT)
        if self.requests is None:
            raise PolicyDenied(change.rule, *(_NO_OPERATOR if is_operators else _NO_HUMAN))
        if answer is not None:
            raise InvalidConfirmation(_OPERATORS, _WITHOUT)
        return self.requests

    async def _ask_operator(
        self, change: Change, requests: ApprovalRequests, report: ReportProgress
    ) -> Proceed | Stop:
        """Ask the operator, or act on their decision."""
        request = await requests.current(change.binding)
        if request is None:
            return await self._request(change, requests)
        if change.caller.waits:
            request = await requests.wait(request, change.until, report)
        authority = Authority("operator", approval_id=request.identifier)
        if await requests.has_expired(request):
            request = await requests.latest(request)  # may have been decided just before it expired
            if request.decision is None:
                await requests.close(change.binding, request.identifier)
                return Stop("expired", Outcome(outcome="expired", reason=_LAPSED), authority)
        made = request.decision
        if made is None:
            return Stop(None, requests.awaiting(request))
        if made.is_withdrawal:
            reason = f"This request was withdrawn by {made.by}. {made.reason}"
            outcome = Outcome(outcome="expired", reason=f"{reason} {_ASK_AGAIN}")
            await self.confirmations.end(request.identifier, outcome)
            await requests.close(change.binding, request.identifier)
            return Stop("expired", outcome, Authority(approval_id=request.identifier))
        why = made.reason.removesuffix(".") or "no reason given"
        reason = f"The operator denied this: {why}. Nothing was sent."
        answer = Answer("", made.is_approval, reason, "operator")
        return await self._act_on_request(
            change, requests, answer, replace(authority, name=made.by)
        )

    async def _request(self, change: Change, requests: ApprovalRequests) -> Stop:
        recent = await self._check(change)
        reasons = (*recent.reasons, *await requests.earlier(change.binding))
        question = await self._question(change, replace(recent, reasons=reasons))
        request = await requests.add(change, question)
        authority = Authority("operator", approval_id=request.identifier)
        outcome = requests.awaiting(request).with_warnings(change.arguments.warnings)
        return Stop("asked", outcome, authority)

    async def _withdraw(self, change: Change, refusal: Answer) -> Proceed | Stop:
        """Withdraw the approval request of a change that the user declined."""
        requests = self.requests
        request = requests and await requests.current(change.binding)
        if requests is None or request is None:
            authority = Authority("elicitation", approval_id=refusal.token)
            return Stop("expired", expired("The request is no longer pending."), authority)
        await requests.withdraw(request, _USER, refusal.reason)
        authority = Authority("elicitation", approval_id=request.identifier)
        return await self._act_on_request(change, requests, refusal, authority)

    async def _withdraw_question(self, change: Change, answer: Answer) -> Stop | None:
        """Withdraw a question that the client could not ask, or return how it was answered."""
        identifier = self.confirmations.verify(answer.token)
        pending = await self.confirmations.find(identifier, change.binding)
        claim = await self.confirmations.claim(identifier, pending)
        if isinstance(claim, Stop):
            return claim if claim.decision == "replayed" else None
        outcome = expired("The client could not ask the user.")
        await self.confirmations.settle(identifier, outcome)
        await self._record(change, Stop("expired", outcome))
        return None

    async def _act_on_request(
        self, change: Change, requests: ApprovalRequests, answer: Answer, authority: Authority
    ) -> Proceed | Stop:
        """Act on a decided request. It is closed unless the change proceeds."""
        identifier = authority.approval_id
        decision = await self._act_on(change, identifier, answer, authority)
        if isinstance(decision, Stop):
            await requests.close(change.binding, identifier)
        return decision

    async def _act_on_approval(self, change: Change, identifier: str) -> Proceed | Stop:
        """Act on an approved request, which stays open for the client to get the outcome."""
        request = await self.requests.find(identifier) if self.requests else None
        made = request and request.decision
        if made is None or not made.is_approval:
            raise InvalidConfirmation(_UNAPPROVED, _WITHOUT)
        authority = Authority("operator", made.by, identifier)
        decision = await self._act_on(change, identifier, Answer("", by="operator"), authority)
        if isinstance(decision, Proceed):
            return replace(decision, is_awaited=False)
        # If the client used the approval first, that use is already recorded.
        return decision if decision.decision != "replayed" else Stop(None, decision.outcome)

    async def _ask_if_needed(self, change: Change) -> Proceed | Stop:
        recent = await self._check(change)
        if change.requirement == "never" and not recent.ids:
            return await self._reserve(Proceed(change))
        return await self._ask(change, recent)

    async def _check(self, change: Change) -> EarlierCalls:
        """Return the warnings about recent calls, or raise if the change can't be sent now."""
        self.twilio.require_ready(change.request)
        if change.dialing is None:
            return EarlierCalls()
        return await self.limits.check(change.dialing)

    async def _act_on(
        self, change: Change, identifier: str, answer: Answer, authority: Authority
    ) -> Proceed | Stop:
        """Act on the answer to a confirmation, once."""
        pending = await self.confirmations.find(identifier, change.binding)
        if pending is not None and answer.approved:
            await self._require_ready(change, identifier, pending)
        claim = await self.confirmations.claim(identifier, pending)
        if isinstance(claim, Stop):
            return replace(claim, authority=authority)
        if not answer.approved:
            declined = Outcome(outcome="declined", reason=answer.reason)
            outcome = await self.confirmations.settle(identifier, declined)
            return Stop("denied" if authority.by == "operator" else "declined", outcome, authority)
        return await self._use(Proceed(change, authority, claim), claim)

    async def _require_ready(
        self, change: Change, identifier: str, pending: PendingConfirmation
    ) -> None:
        """Check the API before claiming an approval, so that an outage does not use it up."""
        try:
            self.twilio.require_ready(change.request)
        except InvocationError:
            if await self.confirmations.is_usable(identifier, pending):
                raise

    async def _use(self, proceed: Proceed, claim: Claim) -> Proceed | Stop:
        """Proceed with a claim, or settle it if something has changed since the preview."""
        authority = proceed.authority
        decision: Proceed | Stop = _expired("The change was interrupted.", authority)
        try:
            if changed := await self._staleness(proceed.change, claim.state):
                decision = _expired(changed, authority)
            else:
                decision = await self._reserve(proceed)
        except InvocationError as error:
            decision = Stop.failed(error, authority)
            if authority.by == "token":
                decision = replace(decision, outcome=as_used(decision.outcome))
        finally:
            if isinstance(decision, Stop):
                await self.confirmations.settle(claim.identifier, decision.outcome)
        return decision

    async def _reserve(self, proceed: Proceed) -> Proceed | Stop:
        """Count the calls of a change against the limits, unless there are new recent calls."""
        if proceed.change.dialing is None:
            return proceed
        shown = frozenset(proceed.claim.state.splitlines()) if proceed.claim else None
        reserved: Reservation | EarlierCalls = EarlierCalls()
        with anyio.CancelScope(shield=True):  # or nobody would release it
            reserved = await self.limits.reserve(proceed.change.dialing, shown)
        if isinstance(reserved, Reservation):
            return replace(proceed, reservation=reserved)
        if proceed.claim is None:
            return await self._ask_if_needed(proceed.change)  # a preview shows the last calls, too
        reason = f"Since the preview: {' '.join(reserved.reasons)}"
        return _expired(reason, proceed.authority)

    async def _staleness(self, change: Change, state: str, now: Change | None = None) -> str:
        """Return what has changed since a preview that showed `state`; empty if nothing.

        `now` is the change under the current policy. Without it, the policy is applied again,
        because the change may have waited for a decision.
        """
        call = await self._current_call(change)
        changed = _difference(state, call) if call else ""
        if changed:
            return changed
        now = now or self._apply_policy(change.arguments, change.caller, change.until)
        return _news_of_hours(now, state)

    async def _ask(self, change: Change, recent: EarlierCalls) -> Stop:
        """Ask the client's user to confirm, with the warnings about recent calls."""
        confirmation = await self.confirmations.issue(
            await self._question(change, recent), change.binding
        )
        outcome = Outcome(
            outcome="confirmation_required",
            confirmation=confirmation,
            reason=_SHOW,
            warnings=change.arguments.warnings,
        )
        return Stop("asked", outcome)

    async def _question(self, change: Change, recent: EarlierCalls) -> "Question":
        from calls_mcp.guard.preview import question_about  # noqa: PLC0415  # 60 ms, for numbers

        call = await self._current_call(change)
        return question_about(change, call, self._now, recent)

    async def _current_call(self, change: Change) -> CallSummary | None:
        """Return the current state of the call to change; None for a new call."""
        if change.places_call:
            return None
        request, is_urgent = change.request.as_fetch(), change.request.is_urgent
        return await self.twilio.read_call(request, change.until, is_urgent=is_urgent)


def _expired(reason: str, authority: Authority) -> Stop:
    by_operator = authority.by == "operator"
    return Stop("expired", expired(reason, by_operator=by_operator), authority)


def _difference(state: str, now: CallSummary) -> str:
    """Return what changed since a preview showed this `state`; empty if nothing."""
    before, after, parties = state.partition("\n")[0], state_of(now), parties_of(now)
    if before == after:
        return ""
    if before.endswith(parties):
        before, after = before.removesuffix(parties), after.removesuffix(parties)
    return f"The call has changed: it was {before} in the preview, and it is {after}."


def _news_of_hours(change: Change, state: str) -> str:
    """Return why calls are not allowed as usual now, if the preview did not say so."""
    known = {*state.splitlines()}
    news = (each for each in change.outside_hours if each.requirement != "never")
    return next((each.sentence for each in news if each.id not in known), "")


def count_decision(entry: Entry) -> None:
    """Report a decision to the metrics."""
    telemetry.record_decision(
        entry.operation.name,
        entry.decision,
        by=entry.authority.by,
        rule=entry.rule,
        error_kind="" if entry.decision == "replayed" else entry.error_kind,
    )
