"""Send a change once, and look up its outcome if the response is lost."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from calls_mcp.errors import InvocationError, OutcomeUnknown, StoreUnavailable
from calls_mcp.guard.change import Change
from calls_mcp.guard.policy.destinations import canonical
from calls_mcp.guard.recovery import LostResponse, PlacedCalls, Recovery
from calls_mcp.observability.redaction import quoted
from calls_mcp.storage.interface import Storage
from calls_mcp.tools.catalog import address_kind
from calls_mcp.tools.outcome import Outcome
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.responses import Response, read_call

_RECOVERY_TIME = 10.0  # seconds
_REMEMBERED = 600  # seconds, at least, for which placed calls are remembered
_LATE = 60  # seconds


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
