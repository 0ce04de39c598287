"""A change, from the decision to the record of its outcome: asked for, sent once, found out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from calls_mcp.approvals import Approvals, Claim, expired
from calls_mcp.arguments import Arguments
from calls_mcp.audit import AuditLog, AuditUnavailable, ConfirmedBy, Decision, Ending, Entry
from calls_mcp.errors import InvocationError, OutcomeUnknown, failed
from calls_mcp.failures import lost, read_call
from calls_mcp.guard import Binding, Situation, action_of, ask, bind, state_of
from calls_mcp.outcome import Approval, Outcome, with_warnings
from calls_mcp.policy import Caps, Policy, PolicyDenied, Requirement, judge
from calls_mcp.recovery import Lost, find_out
from calls_mcp.store import Store, StoreUnavailable
from calls_mcp.twilio import TwilioClient
from calls_mcp.wire import Request, encode

if TYPE_CHECKING:
    from calls_mcp.store.counters import Limit

_DECISIONS: dict[str, Decision] = {
    "confirmation_required": "asked",
    "declined": "declined",
    "expired": "expired",
}
_HELD_FOR = 600  # seconds
_SOUGHT_FOR = 10  # seconds
_MOST_KNOWN = 1000


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked for, by whom, and whether their client can put a question to its user.

    `account_sid` is the account if the arguments name none. `requirement` and `rule` are what the
    policy demands of it, once it is judged.
    """

    arguments: Arguments
    principal: str
    account_sid: str
    requirement: Requirement = "confirm"
    rule: str = ""
    can_ask: bool = False

    @property
    def request(self) -> Request:
        """The request that carries it out."""
        return encode(self.arguments, self.account_sid)

    @property
    def binding(self) -> Binding:
        """What a confirmation of it binds."""
        return bind(self.arguments, self.request.account_sid, self.principal)

    def entry(self, decision: Decision, by: ConfirmedBy = "none") -> Entry:
        """The audit log's entry for a decision about it."""
        return Entry(
            principal=self.principal,
            operation=self.arguments.operation,
            action=action_of(self.arguments),
            arguments=self.arguments.values,
            decision=decision,
            account_sid=self.request.account_sid,
            sid=self.request.sid,
            rule=self.rule,
            confirmed_by=by,
        )


@dataclass(frozen=True, slots=True)
class _Go:
    """The decision to carry a change out."""

    confirmed_by: ConfirmedBy
    claim: Claim | None = None


class Changes:
    """Carries changes out, on the operator's terms; `clock` gives the time in epoch seconds."""

    def __init__(
        self,
        twilio: TwilioClient,
        approvals: Approvals,
        store: Store,
        audit: AuditLog,
        policy: Policy,
        clock: Callable[[], float],
    ) -> None:
        self._twilio = twilio
        self._approvals = approvals
        self._store = store
        self._audit = audit
        self._policy = policy
        self._clock = clock
        self._placed: dict[str, None] = {}  # the SIDs of calls placed, the oldest first

    async def run(self, change: Change, approval: Approval | None) -> Outcome:
        """Do it, or say what must be confirmed first, or why it can't be done.

        Raises:
            InvocationError: The decision could not be recorded, so nothing was sent.
        """
        try:
            change = self._judged(change)
        except PolicyDenied as denied:
            return await self._deny(change, denied)
        decision = await self._decide(change, approval)
        if not isinstance(decision, _Go):
            await self._audit.note(_entry(change, decision, approval))
            return decision
        return await self._carry_out(change, decision)

    def _judged(self, change: Change) -> Change:
        judgement = judge(self._policy, change.arguments, change.request.account_sid)
        warnings = (*change.arguments.warnings, *judgement.notes)
        arguments = replace(judgement.arguments, warnings=warnings)
        return replace(
            change, arguments=arguments, requirement=judgement.requirement, rule=judgement.rule
        )

    async def _deny(self, change: Change, denied: PolicyDenied) -> Outcome:
        entry = replace(change, rule=denied.rule).entry("denied")
        await self._audit.note(replace(entry, error_kind=denied.kind))
        return failed(denied)

    async def _decide(self, change: Change, approval: Approval | None) -> _Go | Outcome:
        try:
            self._require_human(change, approval)
            if approval is None:
                return await self._ask_if_needed(change)
            if approval.approved:
                return await self._claim(change, approval)
            return await self._approvals.decline(approval.token, change.binding, approval.reason)
        except InvocationError as error:
            return failed(error)

    def _require_human(self, change: Change, approval: Approval | None) -> None:
        by_human = approval.by == "elicitation" if approval else change.can_ask
        if change.requirement == "require_human" and not by_human:
            raise PolicyDenied(
                change.rule,
                "its user must confirm this, and this client can't ask them",
                "Tell the user: they need a client that can ask (elicitation), or the operator.",
            )

    async def _ask_if_needed(self, change: Change) -> _Go | Outcome:
        held = await self._held(change)
        if held is None and change.requirement == "never":
            return _Go("none")
        question = ask(change.arguments, await self._situation(change.request), held or "")
        confirmation = await self._approvals.issue(question, change.binding)
        outcome: Outcome = {"outcome": "confirmation_required", "confirmation": confirmation}
        return with_warnings(outcome, change.arguments.warnings)

    async def _claim(self, change: Change, approval: Approval) -> _Go | Outcome:
        claim = await self._approvals.claim(approval.token, change.binding)
        if not isinstance(claim, Claim):
            return claim
        lapsed: Outcome | None = expired("Its use was broken off.")
        try:
            lapsed = await self._lapse(change, claim)
        except InvocationError as error:
            lapsed = failed(error)
        finally:
            if lapsed is not None:
                await self._approvals.settle(claim.identifier, lapsed)
        return lapsed or _Go(approval.by, claim)

    async def _lapse(self, change: Change, claim: Claim) -> Outcome | None:
        now = state_of((await self._situation(change.request)).call)
        if now == claim.state:
            return None
        return expired(f"The call has changed: it was shown as {claim.state}, and it is {now}.")

    async def _carry_out(self, change: Change, go: _Go) -> Outcome:
        """What is begun is finished and recorded, whether or not the client still listens."""
        outcome = failed(lost(change.request, "this server failed before an answer came"))
        with anyio.CancelScope(shield=True):
            try:
                outcome = await self._recorded(change, go)
            finally:
                if go.claim is not None:
                    outcome = await self._settled(go.claim, outcome)
        return outcome

    async def _recorded(self, change: Change, go: _Go) -> Outcome:
        try:
            await self._count(change)
            attempt = await self._audit.begin(change.entry("allowed", go.confirmed_by))
        except PolicyDenied as denied:
            return await self._deny(change, denied)
        except AuditUnavailable as error:
            return failed(error)
        outcome = failed(lost(change.request, "this server failed before an answer came"))
        try:
            outcome = await self._act(change)
        finally:
            is_recorded = await self._audit.end(attempt, _ending(outcome))
        if is_recorded:
            return outcome
        return with_warnings(outcome, ["this outcome could not be written to the audit log"])

    async def _settled(self, claim: Claim, outcome: Outcome) -> Outcome:
        try:
            return await self._approvals.settle(claim.identifier, outcome)
        except StoreUnavailable:
            return with_warnings(outcome, ["this outcome could not be kept in the state store"])

    async def _act(self, change: Change) -> Outcome:
        since = datetime.fromtimestamp(self._clock(), UTC)
        try:
            outcome = await self._send(change)
        except OutcomeUnknown as unknown:
            outcome = await self._find_out(change, since) or await self._hold(change, unknown)
        except InvocationError as error:
            return failed(error)
        self._remember(outcome)
        return outcome

    async def _send(self, change: Change) -> Outcome:
        payload = await self._twilio.send(change.request)
        arguments = change.arguments
        if arguments.operation.returns == "deleted":
            return {"outcome": "done", "deleted": change.request.sid}
        call = read_call(change.request, payload)
        warnings = list(arguments.warnings)
        if "status" in arguments.values and call.get("live"):
            warnings.append(f"the call has not ended: it is {call.get('status')}")
        return with_warnings({"outcome": "done", "call": call}, warnings)

    async def _find_out(self, change: Change, since: datetime) -> Outcome | None:
        sent = Lost(change.arguments, change.request, since, self._placed.keys())
        with anyio.move_on_after(_SOUGHT_FOR):
            found = await find_out(self._twilio.send, sent)
            if found is not None:
                told = "its answer was lost; this was found out afterwards"
                return with_warnings(found, [*change.arguments.warnings, told])
        return None

    async def _hold(self, change: Change, unknown: OutcomeUnknown) -> Outcome:
        """Keep a repeat of a new call behind a confirmation for a while."""
        outcome = failed(unknown)
        if change.request.effect != "place":
            return outcome
        at = datetime.fromtimestamp(self._clock(), UTC).strftime("%H:%M:%S UTC")
        reason = f"The same call was sent at {at} and may have been placed: this may ring twice."
        try:
            await self._store.counters.hold(_key(change), reason, _HELD_FOR)
        except StoreUnavailable:
            return with_warnings(outcome, ["a repeat could not be held back"])
        return outcome

    async def _held(self, change: Change) -> str | None:
        """Why a new call needs a confirmation even where the policy asks for none."""
        if change.request.effect != "place":
            return None
        counters = self._store.counters
        left = await counters.recently(_number(change))
        if left:
            return f"A call to the same number was placed just now; wait {left:.0f} s for another."
        return await counters.held(_key(change))

    async def _count(self, change: Change) -> None:
        """Take what the policy's caps leave of calls.

        Raises:
            PolicyDenied: One of them is used up.
        """
        if change.request.effect != "place":
            return
        counters, caps = self._store.counters, self._policy.caps
        exhausted = await counters.hit([*_limits("all", caps), *_limits(change.principal, caps)])
        if exhausted is not None:
            hint = f"Wait {exhausted.wait:.0f} seconds, or ask the operator to raise it."
            raise PolicyDenied(f"caps.{exhausted.name}", "so many calls were placed", hint)
        await counters.note(_number(change), caps.same_number_seconds, anew=True)

    def _remember(self, outcome: Outcome) -> None:
        if "call" in outcome:
            self._placed[outcome["call"]["sid"]] = None
        while len(self._placed) > _MOST_KNOWN:
            del self._placed[next(iter(self._placed))]

    async def _situation(self, request: Request) -> Situation:
        call = None
        if request.effect != "place":
            fetch = request.as_fetch()
            call = read_call(fetch, await self._twilio.send(fetch))
        return Situation(request.account_sid, call, datetime.fromtimestamp(self._clock(), UTC))


def _number(change: Change) -> str:
    return f"number:{change.arguments.values['to']}"


def _limits(key: str, caps: Caps) -> Iterator["Limit"]:
    """The limits on new calls, in all or of one principal, that are set."""
    from calls_mcp.store.counters import Limit  # noqa: PLC0415  # 80 ms, for new calls alone

    counts, prefix = (caps, "") if key == "all" else (caps.principal, "principal.")
    windows = {
        "calls_per_minute": (counts.calls_per_minute, 60),
        "calls_per_hour": (counts.calls_per_hour, 3600),
        "calls_per_day": (counts.calls_per_day, 86_400),
    }
    for name, (amount, seconds) in windows.items():
        if amount:
            yield Limit(f"{prefix}{name}", amount, seconds, key)


def _key(change: Change) -> str:
    return f"create:{change.binding.arguments}"


def _entry(change: Change, outcome: Outcome, approval: Approval | None) -> Entry:
    decision = _DECISIONS.get(outcome["outcome"], "denied")
    if outcome["outcome"] == "done":  # of an earlier use
        change = replace(change, rule="confirm.single_use")
    entry = change.entry(decision, approval.by if approval else "none")
    return replace(entry, error_kind=outcome["error"]["kind"]) if "error" in outcome else entry


def _ending(outcome: Outcome) -> Ending:
    error = outcome.get("error")
    sid = outcome["call"]["sid"] if "call" in outcome else ""
    if error is None:
        return Ending(outcome["outcome"], sid=sid)
    return Ending(outcome["outcome"], error["kind"], error.get("http_status"), sid)
