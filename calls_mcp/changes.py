"""A change, from the decision to the record of its outcome: asked for, recorded, sent once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import cast

import anyio

from calls_mcp import telemetry
from calls_mcp.approvals import Approvals, Claim, Used, expired
from calls_mcp.arguments import Arguments
from calls_mcp.audit import AuditLog, AuditUnavailable, ConfirmedBy, Decision, Ending, Entry
from calls_mcp.delivery import Delivered, Delivery
from calls_mcp.errors import InvocationError, failed
from calls_mcp.failures import lost
from calls_mcp.guard import Binding, Situation, action_of, ask, bind, differences
from calls_mcp.outcome import Approval, Caller, Outcome, with_warnings
from calls_mcp.policy import Policy, PolicyDenied, Requirement, canonical, judge
from calls_mcp.quotas import Held, NewCall, Quotas, Room
from calls_mcp.store import StoreUnavailable
from calls_mcp.wire import Request, encode

_LONGEST_CALL = 14_400  # seconds, unless time_limit says otherwise
_LONGEST_QUEUE = 600  # seconds until it rings

_SPENT = "The confirmation is spent: call without confirmation_token for a new preview."
_UNRECORDED = "this outcome could not be written to the audit log"
_BROKEN_OFF = "this server failed before an answer came"


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

    def entry(self, decision: Decision, by: ConfirmedBy = "none") -> Entry:
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
            confirmed_by=by,
            trace_id=self.caller.trace_id,
            request_id=self.caller.request_id,
        )


@dataclass(frozen=True, slots=True)
class _Go:
    """The decision to carry a change out."""

    confirmed_by: ConfirmedBy
    claim: Claim | None = None

    @property
    def known(self) -> frozenset[str]:
        """The marks of what stood against it when it was confirmed."""
        return frozenset(self.claim.state.splitlines() if self.claim else ())


@dataclass(frozen=True, slots=True)
class _Stop:
    """The decision not to, and what the client is told."""

    decision: Decision
    outcome: Outcome


class Changes:
    """Carries changes out, on the operator's terms; `clock` gives the time in epoch seconds."""

    def __init__(
        self,
        delivery: Delivery,
        approvals: Approvals,
        quotas: Quotas,
        audit: AuditLog,
        policy: Policy,
        clock: Callable[[], float],
    ) -> None:
        self._delivery = delivery
        self._approvals = approvals
        self._quotas = quotas
        self._audit = audit
        self._policy = policy
        self._clock = clock

    async def run(self, change: Change, approval: Approval | None) -> Outcome:
        """Do it, or say what must be confirmed first, or why it can't be done.

        Raises:
            InvocationError: The decision could not be recorded, so nothing was sent.
        """
        with telemetry.guarding():
            try:
                change = self._judged(change)
                decision = await self._decide(change, approval)
            except PolicyDenied as denied:
                return await self._deny(change, denied)
            if isinstance(decision, _Stop):
                return await self._stop(change, decision, approval.by if approval else "none")
        return await self._carry_out(change, decision)

    def _judged(self, change: Change) -> Change:
        judgement = judge(self._policy, change.arguments, change.request.account_sid)
        warnings = (*change.arguments.warnings, *judgement.notes)
        arguments = replace(judgement.arguments, warnings=warnings)
        return replace(
            change, arguments=arguments, requirement=judgement.requirement, rule=judgement.rule
        )

    async def _deny(self, change: Change, denied: PolicyDenied) -> Outcome:
        return await self._stop(
            replace(change, rule=denied.rule), _Stop("denied", failed(denied)), "none"
        )

    async def _stop(self, change: Change, stop: _Stop, by: ConfirmedBy) -> Outcome:
        entry = change.entry(stop.decision, by)
        if "error" in stop.outcome:
            entry = replace(entry, error_kind=stop.outcome["error"]["kind"])
        _tell(entry)
        try:
            await self._audit.note(entry)
        except AuditUnavailable:
            if stop.decision != "replayed":
                raise
            return with_warnings(stop.outcome, [_UNRECORDED])
        return stop.outcome

    async def _decide(self, change: Change, approval: Approval | None) -> _Go | _Stop:
        try:
            self._require_human(change, approval)
            if approval is None:
                return await self._ask_if_needed(change)
            return await self._answered(change, approval)
        except PolicyDenied:
            raise
        except InvocationError as error:
            return _Stop("denied", failed(error))

    def _require_human(self, change: Change, approval: Approval | None) -> None:
        by_human = approval.by == "elicitation" if approval else change.caller.can_ask
        if change.requirement == "require_human" and not by_human:
            raise PolicyDenied(
                change.rule,
                "its user must confirm this, and this client can't ask them",
                "Tell the user: they need a client that can ask (elicitation), or the operator.",
            )

    async def _ask_if_needed(self, change: Change) -> _Go | _Stop:
        call = change.new_call
        await self._delivery.require_ready(change.request, change.until)
        if call:
            await self._quotas.require_room(call)
        held = await self._quotas.held(call) if call else None
        if held is None and change.requirement == "never":
            return _Go("none")
        return await self._ask(change, held or Held())

    async def _ask(self, change: Change, held: Held) -> _Stop:
        situation = await self._situation(change)
        question = ask(change.arguments, situation, held.reasons, held.marks)
        confirmation = await self._approvals.issue(question, change.binding)
        outcome: Outcome = {"outcome": "confirmation_required", "confirmation": confirmation}
        return _Stop("asked", with_warnings(outcome, change.arguments.warnings))

    async def _answered(self, change: Change, approval: Approval) -> _Go | _Stop:
        claim = await self._approvals.claim(
            approval.token, change.binding, partial(self._require_ready, change, approval)
        )
        if isinstance(claim, Used):
            return _Stop("replayed", claim.outcome)
        if not isinstance(claim, Claim):
            return _Stop("expired", claim)
        if not approval.approved:
            declined: Outcome = {"outcome": "declined", "reason": approval.reason}
            return _Stop("declined", await self._approvals.settle(claim.identifier, declined))
        lapsed = await self._lapsed(change, claim)
        return lapsed or _Go(approval.by, claim)

    async def _require_ready(self, change: Change, approval: Approval) -> None:
        """A refusal can be kept whatever the API does; an approval would be spent in vain."""
        if approval.approved:
            await self._delivery.require_ready(change.request, change.until)

    async def _lapsed(self, change: Change, claim: Claim) -> _Stop | None:
        """Why a claim can't be acted on any more. Whatever happens here, it is settled."""
        lapsed: _Stop | None = _Stop("expired", expired("Its use was broken off."))
        try:
            now = (await self._situation(change)).call
            changed = differences(claim.state, now) if now else ""
            lapsed = _Stop("expired", expired(changed)) if changed else None
        except InvocationError as error:
            lapsed = _Stop("denied", _spent(failed(error)))
        finally:
            if lapsed is not None:
                await self._approvals.settle(claim.identifier, lapsed.outcome)
        return lapsed

    async def _carry_out(self, change: Change, go: _Go) -> Outcome:
        """What is begun is finished and recorded, whether or not the client still listens."""
        outcome = failed(lost(change.request, _BROKEN_OFF))
        with anyio.CancelScope(shield=True):
            try:
                outcome = await self._within_quotas(change, go)
            except AuditUnavailable as error:  # before anything was sent
                outcome = failed(error)
            finally:
                if go.claim is not None:
                    outcome = await self._settled(go.claim, outcome, go.confirmed_by)
        return outcome

    async def _within_quotas(self, change: Change, go: _Go) -> Outcome:
        call = change.new_call
        if call is None:
            return await self._recorded(change, go)
        try:
            room = await self._quotas.take(call, go.known)
        except PolicyDenied as denied:
            return await self._deny(change, denied)
        except InvocationError as error:
            return await self._stop(change, _Stop("denied", failed(error)), go.confirmed_by)
        if isinstance(room, Room):
            return await self._in_room(change, go, room)
        return await self._stop(change, await self._held(change, go, room), go.confirmed_by)

    async def _held(self, change: Change, go: _Go, held: Held) -> _Stop:
        if go.claim is None:
            return await self._ask(change, held)
        return _Stop("expired", expired(f"Since it was asked for: {' '.join(held.reasons)}"))

    async def _in_room(self, change: Change, go: _Go, room: Room) -> Outcome:
        outcome = failed(lost(change.request, _BROKEN_OFF))
        try:
            outcome = await self._recorded(change, go)
        finally:
            outcome = await self._quotas.settle(room, outcome)
        return outcome

    async def _recorded(self, change: Change, go: _Go) -> Outcome:
        entry = change.entry("allowed", go.confirmed_by)
        try:
            attempt = await self._audit.begin(entry)
        except AuditUnavailable as error:
            return failed(error)
        _tell(entry)
        delivered = Delivered(failed(lost(change.request, _BROKEN_OFF)))
        try:
            delivered = await self._delivery.send(change.arguments, change.request, change.until)
        finally:
            is_recorded = await self._audit.end(attempt, _ending(delivered))
        if is_recorded:
            return delivered.outcome
        return with_warnings(delivered.outcome, [_UNRECORDED])

    async def _settled(self, claim: Claim, outcome: Outcome, by: ConfirmedBy) -> Outcome:
        outcome = _spent(outcome) if by == "token" else outcome
        try:
            return await self._approvals.settle(claim.identifier, outcome)
        except StoreUnavailable:
            return with_warnings(outcome, ["this outcome could not be kept in the state store"])

    async def _situation(self, change: Change) -> Situation:
        request, call = change.request, None
        if request.effect != "place":
            call = await self._delivery.fetch(
                request.account_sid, request.sid, change.until, is_pressing=request.is_pressing
            )
        return Situation(request.account_sid, call, datetime.fromtimestamp(self._clock(), UTC))


def _tell(entry: Entry) -> None:
    telemetry.decided(
        entry.operation.name,
        entry.decision,
        by=entry.confirmed_by,
        rule=entry.rule,
        error_kind="" if entry.decision == "replayed" else entry.error_kind,
    )


def _spent(outcome: Outcome) -> Outcome:
    """A failure as one that the same token can't be sent again after."""
    error = outcome.get("error")
    if error is None or not (error["retryable"] or error["kind"] == PolicyDenied.kind):
        return outcome
    hint = f"{error['hint']} {_SPENT}"
    return {**outcome, "error": {**error, "retryable": False, "hint": hint}}


def _ending(delivered: Delivered) -> Ending:
    outcome = delivered.outcome
    return Ending(
        outcome["outcome"],
        error_kind=outcome["error"]["kind"] if "error" in outcome else "",
        http_status=delivered.status,
        sid=outcome["call"]["sid"] if "call" in outcome else "",
        request_id=delivered.request_id,
    )
