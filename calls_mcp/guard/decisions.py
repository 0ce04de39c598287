"""What is decided about a change before anything is sent, and by whom."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import cast

from calls_mcp.audit import NOBODY, Authority, Decision, Entry
from calls_mcp.errors import InvalidConfirmation, InvocationError, PolicyDenied
from calls_mcp.guard.approval_requests import ApprovalRequests, Asked
from calls_mcp.guard.call_limits import Held, NewCall, Quotas
from calls_mcp.guard.confirmations import Claim, Confirmations, Used, expired
from calls_mcp.guard.policy import Policy, Requirement, canonical, judge
from calls_mcp.guard.preview import Question, Situation, action_of, ask, bind, differences
from calls_mcp.guard.send_once import Delivery
from calls_mcp.storage import ApprovalRequest, Binding
from calls_mcp.tools.outcome import Approval, Caller, Outcome, ReportProgress
from calls_mcp.tools.validation import Arguments
from calls_mcp.twilio.requests import Request, encode

_LONGEST_CALL = 14_400  # seconds, unless time_limit says otherwise
_LONGEST_QUEUE = 600  # seconds until it rings

_SHOW = (
    "Nothing has happened yet. Show the preview to your user; only if they agree, call again with "
    "the same arguments and this token as confirmation_token."
)
_SPENT = "The confirmation is spent: call without confirmation_token for a new preview."
_OPERATORS = "Nothing was sent: the operator decides about this, and no token does."
_USERS = "Nothing was sent: the user must be asked about this, and no token does instead."
_WITHOUT = "Call again with the same arguments, without confirmation_token."
_LAPSED = (
    "The operator did not decide in time. Nothing was sent. Call again with the same arguments to "
    "ask anew."
)
_SERVER, _UNRECORDED = "the server", "that it was asked could not be recorded"
_USER = "the user of the client"
_NO_OPERATOR = (
    "the operator must approve this, and can't see what waits in the memory of this server",
    "Tell the user: the operator must unset CALLS_MCP_STATE_URL, which is memory:.",
)
_NO_HUMAN = (
    "its user must confirm this, and this client can't ask them",
    "Tell the user: they need a client that can ask (elicitation), or an operator who approves.",
)


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked for, by whom, until when (by anyio's clock) it must be answered.

    `account_sid` is the account if the arguments name none. `requirement` and `rule` are what the
    policy demands of it, once it is judged.
    """

    arguments: Arguments
    caller: Caller
    account_sid: str
    until: float
    requirement: Requirement = "confirm"
    rule: str = ""

    @property
    def request(self) -> Request:
        """The request that carries it out."""
        return encode(self.arguments, self.account_sid)

    @property
    def binding(self) -> Binding:
        """What a confirmation of it binds."""
        return bind(self.arguments, self.request.account_sid, self.caller.principal)

    @property
    def new_call(self) -> NewCall | None:
        """The call that it would place, if it is one that does."""
        if self.request.effect != "place":
            return None
        values = self.arguments.values
        limits = (values.get("time_limit", _LONGEST_CALL), values.get("timeout", 60))
        longest = _LONGEST_QUEUE + sum(cast("tuple[int, int]", limits))
        to, account_sid = canonical(str(values["to"])), self.request.account_sid
        return NewCall(to, account_sid, self.caller.principal, longest, self.until)

    def entry(self, decision: Decision, authority: Authority = NOBODY) -> Entry:
        """The audit log's entry for a decision about it."""
        return Entry(
            principal=self.caller.principal,
            operation=self.arguments.operation,
            action=action_of(self.arguments),
            arguments=self.arguments.values,
            decision=decision,
            account_sid=self.request.account_sid,
            sid=self.request.sid,
            rule=self.rule,
            authority=authority,
            trace_id=self.caller.trace_id,
            request_id=self.caller.request_id,
        )


@dataclass(frozen=True, slots=True)
class Go:
    """The decision to carry a change out, and on whose authority."""

    authority: Authority = NOBODY
    claim: Claim | None = None

    @property
    def known(self) -> frozenset[str]:
        """The marks of what stood against it when it was confirmed."""
        return frozenset(self.claim.state.splitlines() if self.claim else ())


@dataclass(frozen=True, slots=True)
class Stop:
    """The decision not to, and what the client is told.

    Without a `decision` nothing was decided yet, and nothing is recorded.
    """

    decision: Decision | None
    outcome: Outcome
    authority: Authority = NOBODY


class Decisions:
    """Decides about changes on the operator's terms; `clock` gives the time in epoch seconds.

    Without `requests`, the operator can't be asked.
    """

    def __init__(
        self,
        delivery: Delivery,
        confirmations: Confirmations,
        quotas: Quotas,
        policy: Policy,
        clock: Callable[[], float],
        requests: ApprovalRequests | None,
    ) -> None:
        self._delivery = delivery
        self._confirmations = confirmations
        self._quotas = quotas
        self._policy = policy
        self._clock = clock
        self._requests = requests

    def judged(self, change: Change) -> Change:
        """The change as the policy lets it pass.

        Raises:
            PolicyDenied: It does not.
        """
        judgement = judge(self._policy, change.arguments, change.request.account_sid)
        warnings = (*change.arguments.warnings, *judgement.notes)
        arguments = replace(judgement.arguments, warnings=warnings)
        return replace(
            change, arguments=arguments, requirement=judgement.requirement, rule=judgement.rule
        )

    async def decide(
        self, change: Change, approval: Approval | None, report: ReportProgress
    ) -> Go | Stop:
        """Whether it may be sent, or what its client is told instead.

        Raises:
            PolicyDenied: A rule of the operator's is against it.
        """
        try:
            if approval is not None and approval.by == "operator":
                return await self._withdrawn(change, approval.reason)
            if requests := self._requests_for(change, approval):
                return await self._by_operator(change, requests, report)
            if approval is None:
                return await self._ask_if_needed(change)
            return await self._answered(change, approval)
        except PolicyDenied:
            raise
        except InvocationError as error:
            return Stop("denied", Outcome.from_error(error))

    async def close(self, change: Change, authority: Authority) -> None:
        """Allow the operator to be asked about the same again, now that this is settled."""
        if self._requests is not None and authority.approval_id:
            await self._requests.close(change.binding, authority.approval_id)

    async def take_back(self, change: Change, authority: Authority) -> None:
        """Withdraw a request that the operator was not properly asked for."""
        if self._requests is not None and authority.approval_id:
            request = await self._requests.current(change.binding)
            if request and request.identifier == authority.approval_id:
                await self._requests.withdraw(request, _SERVER, _UNRECORDED)
                await self.close(change, authority)

    async def ask(self, change: Change, held: Held) -> Stop:
        """Put it to the client's user, with what is held against it."""
        question = await self._question(change, held)
        confirmation = await self._confirmations.issue(question, change.binding)
        outcome = Outcome(
            outcome="confirmation_required",
            confirmation=confirmation,
            reason=_SHOW,
            warnings=change.arguments.warnings,
        )
        return Stop("asked", outcome)

    def _requests_for(self, change: Change, approval: Approval | None) -> ApprovalRequests | None:
        """Return where the operator is asked about it, if it is theirs to decide."""
        by_user = approval.by == "elicitation" if approval else change.caller.can_ask
        is_operators = change.requirement == "operator"
        if not (is_operators or (change.requirement == "require_human" and not by_user)):
            return None
        if self._requests is None:
            raise PolicyDenied(change.rule, *(_NO_OPERATOR if is_operators else _NO_HUMAN))
        if approval is not None:
            is_users = not is_operators and change.caller.can_ask
            raise InvalidConfirmation(_USERS if is_users else _OPERATORS, _WITHOUT)
        return self._requests

    async def _by_operator(
        self, change: Change, requests: ApprovalRequests, report: ReportProgress
    ) -> Go | Stop:
        request = await requests.current(change.binding)
        if request is None:
            return await self._request(change, requests)
        if change.caller.waits:
            request = await requests.wait(request, change.until, report)
        authority = Authority("operator", approval_id=request.identifier)
        if request.has_expired(self._clock()):
            request = await requests.latest(request)  # it may have been decided in the last moment
            if request.decision is None:
                await requests.close(change.binding, request.identifier)
                return Stop("expired", Outcome(outcome="expired", reason=_LAPSED), authority)
        made = request.decision
        if made is None:
            return Stop(None, requests.awaiting(request))
        reason = f"The operator said no: {made.reason or 'no reason was given'}. Nothing was done."
        approval = Approval("", made.is_approval, reason, "operator")
        return await self._act_on(change, request, approval, replace(authority, name=made.by))

    async def _request(self, change: Change, requests: ApprovalRequests) -> Stop:
        held = await self._held(change) or Held()
        reasons = (*held.reasons, *await requests.earlier(change.binding))
        question = await self._question(change, replace(held, reasons=reasons))
        asked = Asked(
            change.binding,
            change.request.account_sid,
            change.caller.client,
            change.rule,
            users_too=change.requirement == "require_human",
        )
        request = await requests.add(question, asked)
        authority = Authority("operator", approval_id=request.identifier)
        outcome = requests.awaiting(request).with_warnings(change.arguments.warnings)
        return Stop("asked", outcome, authority)

    async def _withdrawn(self, change: Change, reason: str) -> Go | Stop:
        """Deny what the user does not want, so that the operator is not asked any longer."""
        requests = self._requests
        request = requests and await requests.current(change.binding)
        if requests is None or request is None:
            return Stop("expired", expired("It does not wait for the operator any more."))
        await requests.withdraw(request, _USER, reason)
        refusal = Approval("", approved=False, reason=reason, by="operator")
        authority = Authority("elicitation", approval_id=request.identifier)
        return await self._act_on(change, request, refusal, authority)

    async def _act_on(
        self, change: Change, request: ApprovalRequest, approval: Approval, authority: Authority
    ) -> Go | Stop:
        """Act on a decided request, which is closed unless that goes on."""
        claim = await self._confirmations.claim_requested(
            request.identifier, change.binding, self._readiness(change, approval)
        )
        decided = await self._acted_on(change, approval, authority, claim)
        if isinstance(decided, Stop):
            await self.close(change, authority)
        return decided

    async def _ask_if_needed(self, change: Change) -> Go | Stop:
        held = await self._held(change)
        if held is None and change.requirement == "never":
            return Go()
        return await self.ask(change, held or Held())

    async def _held(self, change: Change) -> Held | None:
        """What is held against it, if it can be sent now at all."""
        call = change.new_call
        await self._delivery.require_ready(change.request)
        if call is None:
            return None
        await self._quotas.require_room(call)
        return await self._quotas.held(call)

    async def _answered(self, change: Change, approval: Approval) -> Go | Stop:
        claim = await self._confirmations.claim(
            approval.token, change.binding, self._readiness(change, approval)
        )
        return await self._acted_on(change, approval, Authority(approval.by), claim)

    async def _acted_on(
        self,
        change: Change,
        approval: Approval,
        authority: Authority,
        claim: Claim | Used | Outcome,
    ) -> Go | Stop:
        if isinstance(claim, Used):
            return Stop("replayed", claim.outcome, authority)
        if not isinstance(claim, Claim):
            return Stop("expired", claim, authority)
        if not approval.approved:
            declined = Outcome(outcome="declined", reason=approval.reason)
            settled = await self._confirmations.settle(claim.identifier, declined)
            return Stop("declined", settled, authority)
        lapsed = await self._lapsed(change, claim)
        return replace(lapsed, authority=authority) if lapsed else Go(authority, claim)

    def _readiness(self, change: Change, approval: Approval) -> Callable[[], Awaitable[None]]:
        """A refusal can be kept whatever the API does; an approval would be spent in vain."""

        async def require_ready() -> None:
            if approval.approved:
                await self._delivery.require_ready(change.request)

        return require_ready

    async def _lapsed(self, change: Change, claim: Claim) -> Stop | None:
        """Why a claim can't be acted on any more. Whatever happens here, it is settled."""
        lapsed: Stop | None = Stop("expired", expired("Its use was broken off."))
        try:
            now = (await self._situation(change)).call
            changed = differences(claim.state, now) if now else ""
            lapsed = Stop("expired", expired(changed)) if changed else None
        except InvocationError as error:
            lapsed = Stop("denied", spent(Outcome.from_error(error)))
        finally:
            if lapsed is not None:
                await self._confirmations.settle(claim.identifier, lapsed.outcome)
        return lapsed

    async def _question(self, change: Change, held: Held) -> Question:
        situation = await self._situation(change)
        return ask(change.arguments, situation, held.reasons, held.marks)

    async def _situation(self, change: Change) -> Situation:
        request, call = change.request, None
        if request.effect != "place":
            call = await self._delivery.fetch(
                request.account_sid, request.sid, change.until, is_urgent=request.is_urgent
            )
        return Situation(request.account_sid, call, datetime.fromtimestamp(self._clock(), UTC))


def spent(outcome: Outcome) -> Outcome:
    """A failure as one that the same token can't be sent again after."""
    error = outcome.error
    if error is None or not (error.retryable or error.kind == PolicyDenied.kind):
        return outcome
    hint = f"{error.hint} {_SPENT}"
    error = error.model_copy(update={"retryable": False, "hint": hint})
    return outcome.model_copy(update={"error": error})
