"""A change, from the decision to the record of its outcome: asked for, recorded, sent once."""

from dataclasses import replace

import anyio

from calls_mcp.audit import AuditLog, ConfirmedBy, Ending, Entry
from calls_mcp.errors import AuditUnavailable, InvocationError, PolicyDenied, StoreUnavailable
from calls_mcp.guard.call_limits import Held, Quotas, Room
from calls_mcp.guard.confirmations import Claim, Confirmations, expired
from calls_mcp.guard.decisions import Change, Decisions, Go, Stop, spent
from calls_mcp.guard.send_once import Delivered, Delivery
from calls_mcp.observability import telemetry
from calls_mcp.tools.outcome import Approval, Outcome, ReportProgress
from calls_mcp.twilio.responses import no_usable_response

_UNRECORDED = "this outcome could not be written to the audit log"
_BROKEN_OFF = "this server failed before an answer came"


class Changes:
    """Has changes decided about, and carries them out."""

    def __init__(
        self,
        decisions: Decisions,
        delivery: Delivery,
        confirmations: Confirmations,
        quotas: Quotas,
        audit: AuditLog,
    ) -> None:
        self._decisions = decisions
        self._delivery = delivery
        self._confirmations = confirmations
        self._quotas = quotas
        self._audit = audit

    async def run(
        self, change: Change, approval: Approval | None, report: ReportProgress
    ) -> Outcome:
        """Do it, or say what must be confirmed first, or why it can't be done.

        Raises:
            InvocationError: The decision could not be recorded, so nothing was sent.
        """
        with telemetry.guard_span():
            try:
                change = self._decisions.judged(change)
                decision = await self._decisions.decide(change, approval, report)
            except PolicyDenied as denied:
                return await self._deny(change, denied)
            if isinstance(decision, Stop):
                return await self._stop(change, decision)
        return await self._carry_out(change, decision)

    async def _deny(self, change: Change, denied: PolicyDenied) -> Outcome:
        return await self._stop(
            replace(change, rule=denied.rule), Stop("denied", Outcome.from_error(denied))
        )

    async def _stop(self, change: Change, stop: Stop) -> Outcome:
        if stop.decision is None:
            return stop.outcome
        entry = change.entry(stop.decision, stop.authority)
        entry = replace(entry, error_kind=stop.outcome.error_kind or entry.error_kind)
        _tell(entry)
        try:
            await self._audit.record(entry)
        except AuditUnavailable:
            if stop.decision == "asked":
                await self._decisions.take_back(change, stop.authority)
            if stop.decision != "replayed":
                raise
            return stop.outcome.with_warnings([_UNRECORDED])
        return stop.outcome

    async def _carry_out(self, change: Change, go: Go) -> Outcome:
        """What is begun is finished and recorded, whether or not the client still listens."""
        outcome = Outcome.from_error(no_usable_response(change.request, _BROKEN_OFF))
        with anyio.CancelScope(shield=True):
            try:
                outcome = await self._within_quotas(change, go)
            except AuditUnavailable as error:  # before anything was sent
                outcome = Outcome.from_error(error)
            finally:
                if go.claim is not None:
                    outcome = await self._settled(go.claim, outcome, go.authority.by)
                    await self._decisions.close(change, go.authority)
        return outcome

    async def _within_quotas(self, change: Change, go: Go) -> Outcome:
        call = change.new_call
        if call is None:
            return await self._recorded(change, go)
        try:
            room = await self._quotas.take(call, go.known)
        except PolicyDenied as denied:
            return await self._deny(change, denied)
        except InvocationError as error:
            return await self._stop(change, Stop("denied", Outcome.from_error(error), go.authority))
        if isinstance(room, Room):
            return await self._in_room(change, go, room)
        held = await self._held(change, go, room)
        return await self._stop(change, replace(held, authority=go.authority))

    async def _held(self, change: Change, go: Go, held: Held) -> Stop:
        if go.claim is None:
            return await self._decisions.ask(change, held)
        return Stop("expired", expired(f"Since it was asked for: {' '.join(held.reasons)}"))

    async def _in_room(self, change: Change, go: Go, room: Room) -> Outcome:
        outcome = Outcome.from_error(no_usable_response(change.request, _BROKEN_OFF))
        try:
            outcome = await self._recorded(change, go)
        finally:
            outcome = await self._quotas.settle(room, outcome)
        return outcome

    async def _recorded(self, change: Change, go: Go) -> Outcome:
        entry = change.entry("allowed", go.authority)
        try:
            attempt = await self._audit.begin(entry)
        except AuditUnavailable as error:
            return Outcome.from_error(error)
        _tell(entry)
        delivered = Delivered(Outcome.from_error(no_usable_response(change.request, _BROKEN_OFF)))
        try:
            delivered = await self._delivery.send(change.arguments, change.request, change.until)
        finally:
            is_recorded = await self._audit.end(attempt, _ending(delivered))
        if is_recorded:
            return delivered.outcome
        return delivered.outcome.with_warnings([_UNRECORDED])

    async def _settled(self, claim: Claim, outcome: Outcome, by: ConfirmedBy) -> Outcome:
        outcome = spent(outcome) if by == "token" else outcome
        try:
            return await self._confirmations.settle(claim.identifier, outcome)
        except StoreUnavailable:
            return outcome.with_warnings(["this outcome could not be kept in the state store"])


def _tell(entry: Entry) -> None:
    telemetry.record_decision(
        entry.operation.name,
        entry.decision,
        by=entry.authority.by,
        rule=entry.rule,
        error_kind="" if entry.decision == "replayed" else entry.error_kind,
    )


def _ending(delivered: Delivered) -> Ending:
    outcome = delivered.outcome
    return Ending(
        outcome.outcome,
        error_kind=outcome.error_kind,
        http_status=delivered.status,
        sid=outcome.call.sid if outcome.call else "",
        request_id=delivered.request_id,
    )
