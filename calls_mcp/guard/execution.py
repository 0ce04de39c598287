"""Execute changes that may be sent: record, send once, record, settle."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import anyio

from calls_mcp.audit import Ending
from calls_mcp.errors import AuditUnavailable, StoreUnavailable
from calls_mcp.guard.confirmations import as_used
from calls_mcp.guard.decisions import UNRECORDED, Guard, Proceed, count_decision
from calls_mcp.guard.send_once import Delivery, Sender
from calls_mcp.tools.outcome import Outcome
from calls_mcp.twilio.responses import no_usable_response

_INTERRUPTED = "this server failed before it got a response"


@dataclass(slots=True, eq=False)
class _Attempt:
    """A change in progress, and its outcome so far."""

    approved: Proceed
    delivery: Delivery
    warnings: list[str] = field(default_factory=list[str])

    @property
    def outcome(self) -> Outcome:
        return self.delivery.outcome.with_warnings(self.warnings)

    @contextmanager
    def warn_if_unavailable(self, warning: str) -> Generator[None]:
        """Add a warning if the store fails, because the outcome must be reported anyway."""
        try:
            yield
        except StoreUnavailable:
            self.warnings.append(warning)


@dataclass(frozen=True, slots=True)
class Executor:
    """Executes the changes that `guard` lets proceed.

    A change that was started is finished even if the client disconnects.
    """

    sender: Sender
    guard: Guard

    async def execute(self, approved: Proceed) -> Outcome:
        """Execute a change and return its outcome."""
        interrupted = no_usable_response(approved.change.request, _INTERRUPTED)
        attempt = _Attempt(approved, Delivery(Outcome.from_error(interrupted)))
        with anyio.CancelScope(shield=True):
            try:
                await self._record_and_send(attempt)
            finally:
                try:
                    await self._settle_reservation(attempt)
                finally:
                    await self._settle_claim(attempt)
        return attempt.outcome

    async def _record_and_send(self, attempt: _Attempt) -> None:
        """Record a change before it is sent, and its outcome afterwards."""
        change, authority = attempt.approved.change, attempt.approved.authority
        entry = change.entry("allowed", authority)
        try:
            record = await self.guard.audit.begin(entry)
        except AuditUnavailable as error:  # so it must not be sent
            attempt.delivery = Delivery(Outcome.from_error(error))
            return
        count_decision(entry)
        try:
            attempt.delivery = await self.sender.send_once(change)
        finally:
            if not await self.guard.audit.end(record, _ending(attempt.delivery)):
                attempt.warnings.append(UNRECORDED)

    async def _settle_reservation(self, attempt: _Attempt) -> None:
        if attempt.approved.reservation is not None:
            with attempt.warn_if_unavailable(
                "the call limits could not be updated in the state store"
            ):
                await self.guard.limits.settle(attempt.approved.reservation, attempt.outcome)

    async def _settle_claim(self, attempt: _Attempt) -> None:
        """Settle the claim with the outcome, and close the approval request, if any."""
        approved = attempt.approved
        if approved.claim is None:
            return
        if approved.authority.by == "token":
            outcome = as_used(attempt.delivery.outcome)
            attempt.delivery = replace(attempt.delivery, outcome=outcome)
        with attempt.warn_if_unavailable("this outcome could not be saved in the state store"):
            await self.guard.confirmations.settle(approved.claim.identifier, attempt.outcome)
        request = approved.authority.approval_id
        if self.guard.requests is not None and request and approved.is_awaited:
            await self.guard.requests.close(approved.change.binding, request)


def _ending(delivery: Delivery) -> Ending:
    outcome = delivery.outcome
    return Ending(
        outcome.outcome,
        error_kind=outcome.error_kind,
        http_status=delivery.status,
        sid=outcome.call.sid if outcome.call else "",
        request_id=delivery.request_id,
    )
