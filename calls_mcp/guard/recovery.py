"""Look up whether a change took effect after its response was lost."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import anyio

from calls_mcp.errors import (
    InvocationError,
    NotDone,
    NotFound,
    OutcomeUnknown,
    StoreUnavailable,
)
from calls_mcp.guard.change import Change, status_of
from calls_mcp.guard.policy.destinations import canonical
from calls_mcp.guard.policy.sip_address import parse_sip
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.rate_limits import Limit
from calls_mcp.tools.call_summary import CallSummary, NotACall, summarize
from calls_mcp.tools.catalog import Json, address_kind
from calls_mcp.tools.outcome import Outcome
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Request

_PAUSES = (0.0, 0.5, 1.5)  # seconds before each lookup; a new call may be listed late
_CLOCK_SKEW = timedelta(seconds=2)
_HANGING_UP = frozenset({"sid", "account_sid", "status"})
_GATEWAYS = frozenset({408, 502, 504})  # sent while the request may still be in progress
_NO_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class LostResponse:
    """A change that was sent at `since` and got no usable response because of `error`."""

    change: Change
    since: datetime
    error: OutcomeUnknown

    @property
    def is_over(self) -> bool:
        """Whether the API has finished with the request, because it responded at all."""
        return self.error.status is not None and self.error.status not in _GATEWAYS

    def unknown(self, seen: str = "") -> Outcome:
        """Return an unknown outcome, and what was `seen` of the call."""
        error = self.error
        message = f"{error.message} {seen}".rstrip()
        return Outcome.from_error(OutcomeUnknown(message, error.hint, status=error.status))

    def not_done(self, seen: str) -> Outcome:
        """Return that nothing happened, or unknown if the request may still be in progress."""
        if not self.is_over:
            return self.unknown()
        status = self.error.status
        message = f"This did not take effect: the API returned {status}, and {seen}."
        return Outcome.from_error(NotDone(message, status=status))

    def done(self, call: CallSummary | None = None, *, deleted: str | None = None) -> Outcome:
        """Return that the change took effect."""
        what = "call" if self.change.places_call else "change"
        note = f"the response was lost; a lookup confirmed the {what}"
        warnings = (*self.change.warnings, note)
        return Outcome(
            outcome="done", call=call, deleted=deleted, recovered=True, warnings=warnings
        )


@dataclass(frozen=True, slots=True)
class PlacedCalls:
    """Remembers placed calls for `seconds`, so that lookups don't mix them up."""

    storage: Storage
    seconds: int

    async def begin(self, request: Request) -> str:
        """Announce that a call is being placed. Return the reservation for `finish`."""
        return str(await self.storage.reserve([self._between_same_parties(request)]))

    async def finish(self, request: Request, reservation: str, outcome: Outcome) -> None:
        """Remember the placed call. If the outcome is unknown, keep the reservation."""
        if outcome.call:
            await self._remember(outcome.call.sid)
        if outcome.error_kind != OutcomeUnknown.kind:
            await self.storage.release([self._between_same_parties(request)], reservation)

    async def is_known(self, call: CallSummary) -> bool:
        """Return whether a call belongs to another request."""
        return await self.storage.get_with_ttl(_key(call.sid)) is not None

    async def claim(self, request: Request, call: CallSummary) -> bool:
        """Return whether the call must be this request's, and remember it if so.

        That is certain if no other call between the same parties was being placed.
        """
        limit = self._between_same_parties(request)
        try:
            is_alone = len(await self.storage.reservations(limit)) == 1
            return is_alone and await self._remember(call.sid) is not None
        except StoreUnavailable:
            return False

    async def _remember(self, sid: str) -> str | None:
        return await self.storage.set_if_absent(_key(sid), self.seconds)

    def _between_same_parties(self, request: Request) -> Limit:
        parties = json.dumps([request.account_sid, *_parties_of(request)])
        return Limit("under_way", _NO_LIMIT, self.seconds, parties)


@dataclass(frozen=True, slots=True)
class Recovery:
    """Looks up the outcome of changes, even while the circuit breaker is open."""

    twilio: TwilioClient
    calls: PlacedCalls

    async def find_out(self, lost: LostResponse) -> Outcome:
        """Return the outcome if it becomes certain in time, else unknown."""
        unknown = lost.unknown()
        with self.twilio.cancel_at(lost.change.until), suppress(InvocationError):
            found = unknown
            for pause in _PAUSES:
                await anyio.sleep(pause)
                found = await self._look(lost)
                if found.outcome == "done":
                    return found if await self._is_certain(lost, found) else unknown
                if found.error_kind == OutcomeUnknown.kind:
                    unknown = found
            return found
        return unknown

    async def _look(self, lost: LostResponse) -> Outcome:
        if lost.change.places_call:
            return await self._look_for_new_call(lost)
        try:
            call = await self._current_call(lost.change.request)
        except NotFound as error:
            if lost.change.request.effect == "delete" and error.is_sure:
                return lost.done(deleted=lost.change.request.sid)
            raise
        return _judge(lost, call) if call else lost.unknown()

    async def _current_call(self, request: Request) -> CallSummary | None:
        """Return the call that a request changes; None if the response is about another."""
        response = await self.twilio.send(request.as_fetch(), is_urgent=True)
        call = _summary(response.payload)
        return call if call and call.sid == request.sid else None

    async def _look_for_new_call(self, lost: LostResponse) -> Outcome:
        response = await self.twilio.send(lost.change.request.as_search(), is_urgent=True)
        entries = response.payload.get("calls")
        calls = map(_summary, entries if isinstance(entries, list) else [])
        likely = [call for call in calls if call and _may_be(call, lost)]
        found = [call for call in likely if not await self.calls.is_known(call)]
        return lost.done(found[0]) if len(found) == 1 else lost.unknown()

    async def _is_certain(self, lost: LostResponse, found: Outcome) -> bool:
        if not (lost.change.places_call and found.call):
            return True
        return await self.calls.claim(lost.change.request, found.call)


def _judge(lost: LostResponse, call: CallSummary) -> Outcome:
    """Return the outcome of a change from the state of its call."""
    action = lost.change.arguments.action
    if action == "delete":
        return lost.not_done("the record still exists")
    if action != "hang_up":  # a call does not show where it was redirected
        return lost.unknown(f"The call is now {status_of(call)}." if call.status else "")
    if call.live is False:
        return lost.done(call)
    # A live call may have been redirected, or changed otherwise.
    if call.live is None or lost.change.arguments.values.keys() - _HANGING_UP:
        return lost.unknown()
    return lost.not_done(f"the call is still {status_of(call)}")


def _may_be(call: CallSummary, lost: LostResponse) -> bool:
    """Return whether the call is outbound, between the same parties, and newer than the request."""
    created = call.created_at
    return (
        call.direction == "outbound-api"
        and _parties(call.to or "", call.from_ or "") == _parties_of(lost.change.request)
        and created is not None
        and datetime.fromisoformat(created) >= lost.since.astimezone(UTC) - _CLOCK_SKEW
    )


def _parties_of(request: Request) -> tuple[str, str]:
    form = dict(request.form)
    return _parties(form.get("To", ""), form.get("From", ""))


def _parties(to: str, caller: str) -> tuple[str, str]:
    """Return both parties in the same form, whether they were sent or recorded by the API.

    The caller is without scheme and domain, which the API adds: `sip:jack@…` for `jack`.
    """
    sip = parse_sip(_with_scheme(caller))
    user = sip.user if sip else canonical(caller).removeprefix("client:")
    return canonical(_with_scheme(to)), user.lower()


def _with_scheme(address: str) -> str:
    return f"sip:{address}" if "@" in address and address_kind(address) is None else address


def _summary(payload: Json | Mapping[str, Json]) -> CallSummary | None:
    try:
        return summarize(payload) if isinstance(payload, Mapping) else None
    except NotACall:
        return None


def _key(sid: str) -> str:
    return f"call:{sid}"
