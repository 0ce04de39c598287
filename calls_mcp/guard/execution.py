"""Execute changes that may be sent: record, send once, record, settle.

If the response is lost, the outcome is looked up.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import anyio

from calls_mcp.audit.records import Ending
from calls_mcp.errors import AuditUnavailable, InvocationError, OutcomeUnknown, StoreUnavailable
from calls_mcp.guard.change import Change
from calls_mcp.guard.confirmations import as_used
from calls_mcp.guard.decisions import UNRECORDED, Guard, Proceed, count_decision
from calls_mcp.guard.policy.destinations import canonical
from calls_mcp.guard.recovery import LostResponse, PlacedCalls, Recovery
from calls_mcp.observability.redaction import quoted
from calls_mcp.storage.interface import Storage
from calls_mcp.tools.catalog import address_kind
from calls_mcp.tools.outcome import Outcome
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.responses import Response, no_usable_response, read_call

_RECOVERY_TIME = 10.0  # seconds
_REMEMBERED = 600  # seconds, at least, for which placed calls are remembered
_LATE = 60  # seconds
_INTERRUPTED = "this server failed before it got a response"


@dataclass(frozen=True, slots=True)
class Delivery:
    """The outcome of a change. `status` and `request_id` come from the API's response, if any."""

    outcome: Outcome
    status: int | None = None
    request_id: str = ""


class Sender:
    """Sends changes that take at most `deadline` seconds. `clock` returns epoch seconds."""

    def __init__(
        self, twilio: TwilioClient, storage: Storage, deadline: float, clock: Callable[[], float]
    ) -> None:
        self._twilio = twilio
        self._clock = clock
        self._calls = PlacedCalls(storage, max(_REMEMBERED, int(deadline) + _LATE))
        self._recovery = Recovery(twilio, self._calls)
        # Part of the time is kept for a lookup if the response is lost.
        self._recovery_time = min(_RECOVERY_TIME, deadline / 4)

    async def send_once(self, change: Change) -> Delivery:
        """Send a change, and return its outcome before the deadline."""
        if not change.places_call:
            return await self._send(change)
        try:
            reservation = await self._calls.begin(change.request)
        except StoreUnavailable as unavailable:
            return Delivery(Outcome.from_error(unavailable))
        delivery = await self._send(change)
        outcome = delivery.outcome
        try:
            await self._calls.finish(change.request, reservation, outcome)
        except StoreUnavailable:
            warning = "this call could not be saved in the state store"
            return replace(delivery, outcome=outcome.with_warnings([warning]))
        return delivery

    async def _send(self, change: Change) -> Delivery:
        since = datetime.fromtimestamp(self._clock(), UTC)
        try:
            response = await self._twilio.send(change.request, change.until - self._recovery_time)
            return Delivery(_done(change, response), response.status, response.request_id)
        except OutcomeUnknown as unknown:
            outcome = await self._recovery.find_out(LostResponse(change, since, unknown))
            return Delivery(outcome, unknown.status, unknown.request_id)
        except InvocationError as error:
            return Delivery(Outcome.from_error(error), error.status, error.request_id)


def _done(change: Change, response: Response) -> Outcome:
    arguments, request = change.arguments, change.request
    if request.effect == "delete":
        return Outcome(outcome="done", deleted=request.sid)
    call = read_call(request, response)
    warnings = list(change.warnings)
    if "status" in arguments.values and call.live:
        warnings.append(f"the call has not ended: it is {call.status}")
    if change.places_call and _is_another_number(str(arguments.values["to"]), call.to):
        called = quoted(call.to or "")
        warnings.append(f"the API reports that it is calling {called}, not the number in `to`")
    return Outcome(outcome="done", call=call, warnings=tuple(warnings))


def _is_another_number(asked: str, called: str | None) -> bool:
    """Return whether the called number certainly differs from the requested one."""
    numbers = address_kind(asked) == "phone number" == address_kind(called or "")
    return numbers and canonical(asked) != canonical(called or "")


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
