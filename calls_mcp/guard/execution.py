"""Execute changes that may be sent: reserve, record, send once, record, settle."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

import anyio

from calls_mcp.audit import AuditLog, Ending
from calls_mcp.errors import AuditUnavailable, InvocationError, PolicyDenied, StoreUnavailable
from calls_mcp.guard.change import Change, Claim, Proceed, Stop
from calls_mcp.guard.confirmations import Confirmations, expired
from calls_mcp.guard.decisions import UNRECORDED, Guard, as_used, count_decision
from calls_mcp.guard.limits import CallLimits, Reservation
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

    def finish(self, delivery: Delivery) -> None:
        self.delivery = delivery

    def fail(self, error: InvocationError) -> None:
        self.delivery = Delivery(Outcome.from_error(error))

    @contextmanager
    def warn_if_unavailable(self, warning: str) -> Generator[None]:
        """Add a warning if the store fails, because the outcome must be reported anyway."""
        try:
            yield
        except StoreUnavailable:
            self.warnings.append(warning)


class Executor:
    """Executes changes. A change that was started is finished even if the client disconnects."""

    def __init__(
        self,
        guard: Guard,
        sender: Sender,
        confirmations: Confirmations,
        limits: CallLimits,
        audit: AuditLog,
    ) -> None:
        self._guard = guard
        self._sender = sender
        self._confirmations = confirmations
        self._limits = limits
        self._audit = audit

    async def execute(self, approved: Proceed) -> Outcome:
        """Execute a change and return its outcome.

        Raises:
            InvocationError: It needed a confirmation, which could not be created.
        """
        change = approved.change
        interrupted = no_usable_response(change.request, _INTERRUPTED)
        attempt = _Attempt(approved, Delivery(Outcome.from_error(interrupted)))
        with anyio.CancelScope(shield=True):
            async with self._settled(attempt):
                reservation = await self._reserve(approved)
                if isinstance(reservation, Stop):
                    attempt.finish(Delivery(await self._guard.record(change, reservation)))
                else:
                    async with self._reserved(attempt, reservation), self._recorded(attempt):
                        attempt.finish(await self._sender.send_once(change))
        return attempt.outcome

    async def _reserve(self, approved: Proceed) -> Reservation | Stop | None:
        """Count the calls of a change against the limits, or return why it is not sent."""
        change, claim = approved.change, approved.claim
        if change.dialing is None:
            return None
        known = frozenset(claim.state.splitlines() if claim else ())
        try:
            reserved = await self._limits.reserve(change.dialing, known)
        except PolicyDenied as denied:
            return Stop.failed(denied)
        except StoreUnavailable as unavailable:
            return Stop.failed(unavailable, approved.authority)
        if isinstance(reserved, Reservation):
            return reserved
        if claim is None:
            return await self._guard.ask(change, reserved)
        reason = f"Since the preview: {' '.join(reserved.reasons)}"
        return Stop("expired", expired(reason), approved.authority)

    @asynccontextmanager
    async def _settled(self, attempt: _Attempt) -> AsyncGenerator[None]:
        """Settle the claim with the outcome, whatever happens."""
        try:
            yield
        except AuditUnavailable as error:  # before anything was sent
            attempt.fail(error)
        finally:
            if attempt.approved.claim is not None:
                await self._settle(attempt, attempt.approved.change, attempt.approved.claim)

    async def _settle(self, attempt: _Attempt, change: Change, claim: Claim) -> None:
        authority = attempt.approved.authority
        if authority.by == "token":
            outcome = as_used(attempt.delivery.outcome)
            attempt.finish(replace(attempt.delivery, outcome=outcome))
        with attempt.warn_if_unavailable("this outcome could not be saved in the state store"):
            await self._confirmations.settle(claim.identifier, attempt.outcome)
        if attempt.approved.is_awaited:
            await self._guard.close(change, authority)

    @asynccontextmanager
    async def _reserved(
        self, attempt: _Attempt, reservation: Reservation | None
    ) -> AsyncGenerator[None]:
        """Release the reservation of a call that was certainly not placed."""
        try:
            yield
        except AuditUnavailable as error:  # before anything was sent
            attempt.fail(error)
            raise
        finally:
            if reservation is not None:
                with attempt.warn_if_unavailable(
                    "the call limits could not be updated in the state store"
                ):
                    await self._limits.settle(reservation, attempt.outcome)

    @asynccontextmanager
    async def _recorded(self, attempt: _Attempt) -> AsyncGenerator[None]:
        """Record a change before it is sent, and its outcome afterwards.

        Raises:
            AuditUnavailable: The change can't be recorded, so it must not be sent.
        """
        approved = attempt.approved
        entry = approved.change.entry("allowed", approved.authority)
        record = await self._audit.begin(entry)
        count_decision(entry)
        try:
            yield
        finally:
            if not await self._audit.end(record, _ending(attempt.delivery)):
                attempt.warnings.append(UNRECORDED)


def _ending(delivery: Delivery) -> Ending:
    outcome = delivery.outcome
    return Ending(
        outcome.outcome,
        error_kind=outcome.error_kind,
        http_status=delivery.status,
        sid=outcome.call.sid if outcome.call else "",
        request_id=delivery.request_id,
    )
