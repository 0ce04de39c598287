"""A change on its way: sent once, and found out about if its answer is lost."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from calls_mcp.errors import InvocationError, OutcomeUnknown, StoreUnavailable
from calls_mcp.guard.policy import canonical
from calls_mcp.guard.recovery import Lost, find_out
from calls_mcp.storage import Limit, Storage
from calls_mcp.tools.catalog import address_kind, load_operations
from calls_mcp.tools.outcome import CallSummary, Outcome
from calls_mcp.tools.validation import Arguments
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Request, encode
from calls_mcp.twilio.responses import Response, read_call

_SOUGHT_FOR = 10.0  # seconds
_MISTAKABLE_FOR = (
    600  # seconds, at least, for which a call is remembered, lest it be taken for another
)
_LATE = 60  # seconds
_ANY_NUMBER = 1_000_000


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a change; `status` and `request_id` are the API's, if it answered."""

    outcome: Outcome
    status: int | None = None
    request_id: str = ""


class Delivery:
    """Sends changes within `deadline` seconds; `clock` gives the time in epoch seconds."""

    def __init__(
        self, twilio: TwilioClient, storage: Storage, deadline: float, clock: Callable[[], float]
    ) -> None:
        self._twilio = twilio
        self._storage = storage
        self._clock = clock
        # Of a change's time, some is kept for finding out what became of it.
        self._mistakable_for = max(_MISTAKABLE_FOR, int(deadline) + _LATE)
        self._reserve = min(_SOUGHT_FOR, deadline / 4)

    async def fetch(
        self, account_sid: str, sid: str, until: float, *, is_urgent: bool = False
    ) -> CallSummary:
        """A call as it is now, read before `until` (by anyio's clock).

        If `is_urgent`, that is tried even if the API keeps failing.

        Raises:
            InvocationError: It could not be read.
        """
        operation = load_operations()["fetch_call"]
        arguments = Arguments(operation, {"account_sid": account_sid, "sid": sid})
        request = encode(arguments, account_sid)
        response = await self._twilio.send(request, until, is_urgent=is_urgent)
        return read_call(request, response)

    async def require_ready(self, request: Request) -> None:
        """Do nothing if a change could be sent now.

        Raises:
            InvocationError: The API keeps failing, so that it would be held back.
        """
        self._twilio.require_ready(request)

    async def send(self, arguments: Arguments, request: Request, until: float) -> Delivered:
        """Send a change, and say before `until` (by anyio's clock) what became of it."""
        if request.effect != "place":
            return await self._send(arguments, request, until)
        try:
            entry = str(await self._storage.reserve([self._under_way(request)]))
        except StoreUnavailable as unavailable:
            return Delivered(Outcome.from_error(unavailable))
        return await self._place(arguments, request, until, entry)

    async def _place(
        self, arguments: Arguments, request: Request, until: float, entry: str
    ) -> Delivered:
        """Place a call, known to be under way to all who may look for one of their own."""
        storage, under_way = self._storage, self._under_way(request)
        delivered = await self._send(arguments, request, until)
        outcome = delivered.outcome
        try:
            if outcome.call:
                await storage.set_if_absent(_taken(outcome.call.sid), self._mistakable_for)
            if outcome.error_kind != OutcomeUnknown.kind:
                await storage.release([under_way], entry)
        except StoreUnavailable:
            warning = "this call could not be kept in the state store"
            return replace(delivered, outcome=outcome.with_warnings([warning]))
        return delivered

    async def _send(self, arguments: Arguments, request: Request, until: float) -> Delivered:
        since = datetime.fromtimestamp(self._clock(), UTC)
        try:
            response = await self._twilio.send(request, until - self._reserve)
            outcome = _done(arguments, request, response)
            return Delivered(outcome, response.status, response.request_id)
        except OutcomeUnknown as unknown:
            sent = Lost(arguments, request, since, self._is_taken, unknown)
            outcome = await self._find_out(sent, until)
            return Delivered(outcome, unknown.status, unknown.request_id)
        except InvocationError as error:
            return Delivered(Outcome.from_error(error), error.status, error.request_id)

    async def _find_out(self, sent: Lost, until: float) -> Outcome:
        found = None
        with self._twilio.cancel_at(until):
            found = await find_out(partial(self._twilio.send, is_urgent=True), sent)
            if found is not None and found.call and sent.request.effect == "place":
                found = found if await self._claims(sent.request, found.call.sid) else None
        if found is None:
            return Outcome.from_error(sent.error)
        if found.error:
            return found
        told = "its answer was lost; this was found out afterwards"
        return found.with_warnings([*sent.arguments.warnings, told])

    async def _is_taken(self, sid: str) -> bool:
        return await self._storage.get_with_ttl(_taken(sid)) is not None

    async def _claims(self, request: Request, sid: str) -> bool:
        """Whether a call that was found can be no other's: none was under way between the same."""
        storage = self._storage
        try:
            is_alone = len(await storage.reservations(self._under_way(request))) == 1
            return (
                is_alone
                and await storage.set_if_absent(_taken(sid), self._mistakable_for) is not None
            )
        except StoreUnavailable:
            return False

    def _under_way(self, request: Request) -> Limit:
        """What is reserved by those who place a call between the same parties."""
        form = dict(request.form)
        parties = json.dumps([request.account_sid, form.get("To"), form.get("From")])
        return Limit("under_way", _ANY_NUMBER, self._mistakable_for, parties)


def _done(arguments: Arguments, request: Request, response: Response) -> Outcome:
    if arguments.operation.returns == "deleted":
        return Outcome(outcome="done", deleted=request.sid)
    call = read_call(request, response)
    warnings = list(arguments.warnings)
    if "status" in arguments.values and call.live:
        warnings.append(f"the call has not ended: it is {call.status}")
    if request.effect == "place" and _rings_another(str(arguments.values["to"]), call.to):
        warnings.append(f"the API says that it calls {call.to}, which is not what was asked")
    return Outcome(outcome="done", call=call, warnings=tuple(warnings))


def _rings_another(asked: str, called: str | None) -> bool:
    """Whether a number was called that is surely not the one asked for."""
    numbers = address_kind(asked) == "number" == address_kind(called or "")
    return numbers and canonical(asked) != canonical(called or "")


def _taken(sid: str) -> str:
    return f"call:{sid}"
