"""Limits on calls: how many in total, at once or to one number, and how long."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil
from secrets import token_urlsafe
from typing import NamedTuple

from calls_mcp.errors import (
    InvocationError,
    NotFound,
    OutcomeUnknown,
    PolicyDenied,
    StoreUnavailable,
)
from calls_mcp.guard.change import Dialing
from calls_mcp.guard.policy.rules import Caps, Counts
from calls_mcp.guard.repeated_calls import (
    EarlierCalls,
    Mark,
    RepeatedCalls,
    before_sending,
    named,
    noun,
)
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.rate_limits import Limit, LimitExceeded
from calls_mcp.storage.records import DAY, CallsTo, Frequency, TalkTime, until_room
from calls_mcp.tools.call_summary import CallSummary, summarize
from calls_mcp.tools.humanize import about, counted, ordinal
from calls_mcp.tools.outcome import Outcome, Risk
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Request

_REMEMBERED = 600  # seconds, at least, for which a call may count as possibly placed
_LATE = 60  # seconds
_USUAL_TALK = 300  # seconds
_LONGEST_PARTY = 64  # characters
_WINDOWS = {"calls_per_minute": 60, "calls_per_hour": 3600, "calls_per_day": DAY}  # seconds
_RAISE = "Tell your user, or ask the operator to raise the limit."


class _Kept(NamedTuple):
    """What is stored about calls in flight: the call that made them, and how many there may be."""

    account_sid: str
    sid: str
    principal: str
    times: int = 1
    by_update: bool = False


@dataclass(frozen=True, slots=True)
class Reservation:
    """The marks of new calls, and their slots among the calls in flight.

    `id` identifies the calls in the counts for each number, and `talk` is their talk time.
    """

    dialing: Dialing
    marks: tuple[Mark, ...] = ()
    id: str = ""
    talk: TalkTime | None = None
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a limit is used now, in calls or, for `minutes_per_day`, in minutes.

    `name` is the key of the policy, such as `calls_per_day`. `principal` is empty for all together.
    """

    name: str
    principal: str
    used: int
    amount: int


class CallLimits:
    """Counts the calls of one account and its subaccounts in the store.

    `deadline` is how many seconds placing a call may take. `digest` returns a keyed digest, so that
    the store does not reveal which numbers were called.
    """

    def __init__(
        self,
        storage: Storage,
        twilio: TwilioClient,
        caps: Caps,
        account_sid: str,
        deadline: float,
        digest: Callable[[str], str],
    ) -> None:
        self._storage = storage
        self._twilio = twilio
        self._caps = caps
        self._account_sid = account_sid
        self._digest = digest
        self._often = Frequency(caps.same_number_per_day, caps.same_number_per_week)
        uncertain = max(_REMEMBERED, deadline + _LATE)
        self._repeated = RepeatedCalls(storage, account_sid, uncertain, caps.same_number_seconds)

    async def usage(self, principals: Iterable[str]) -> Sequence[Usage]:
        """Return how much of each limit is used, in total and by each of the principals.

        Raises:
            StoreUnavailable: The store can't be reached.
        """
        total, *_ = self._counts("")
        owners = [("", total), *((each, self._counts(each)[1]) for each in principals)]
        return [
            Usage(
                name, principal, await self._used(Limit(f"{prefix}{name}", amount, 0, key)), amount
            )
            for principal, (prefix, counts, key) in owners
            for name in (*_WINDOWS, "in_flight", "minutes_per_day")
            if (amount := getattr(counts, name))
        ]

    async def _used(self, limit: Limit) -> int:
        kind = limit.name.rpartition(".")[2]
        if kind == "in_flight":
            return await self._storage.count_reserved(limit)
        if kind in _WINDOWS:
            return await self._storage.count_hits(limit)
        now = await self._storage.now()
        seconds = sum(each.seconds(now) for each in await self._storage.spent(limit))
        return ceil(seconds / 60)

    async def check(self, dialing: Dialing) -> EarlierCalls:
        """Check the limits without counting a call, and return earlier calls to the same parties.

        Raises:
            PolicyDenied: A limit is reached, or too low for this change at any time.
        """
        _require_room(self._in_flight(dialing), dialing.at_once)
        limits, times = self._per_time(dialing.principal), len(dialing.parties)
        _require_room(limits, times)
        _require_room(self._to_same_number(), _most_calls_to_one(dialing), " to the same number")
        _require(limits, await self._storage.check_limits(limits, times))
        await self._spend(dialing)
        calls = await self._calls_to(dialing)
        risks = tuple(_history(dialing, calls))
        last = frozenset(each.last for each in calls if each.last)
        return replace(await self._repeated.find(dialing.parties), risks=risks, last=last)

    async def reserve(
        self, dialing: Dialing, shown: frozenset[str] | None
    ) -> Reservation | EarlierCalls:
        """Count the calls and return their reservation, which must be settled.

        `shown` identifies the calls that a preview took into account; None if there was no preview.
        If there are other recent calls, or any since the preview, return them and count nothing.

        Raises:
            PolicyDenied: A limit is reached.
            StoreUnavailable: The store can't be reached.
        """
        known = shown or frozenset()
        while (marks := await self._repeated.mark(dialing.parties, known)) is None:
            earlier = await self._repeated.find(dialing.parties)
            if not earlier.ids <= known:
                return earlier
        reservation = Reservation(dialing, marks)
        try:
            reservation = replace(reservation, place=await self._take_place(dialing))
            reservation = replace(reservation, id=token_urlsafe(9))
            before = await self._calls_to(dialing, reservation.id)
            if shown is not None and (newer := _newer(dialing, before, shown)):
                await self._release(reservation)
                return newer
            reservation = replace(reservation, talk=await self._spend(dialing, reservation.id))
            limits = self._per_time(dialing.principal)
            _require(limits, await self._storage.hit(limits, len(dialing.parties)))
        except InvocationError:
            with suppress(StoreUnavailable):  # otherwise it expires
                await self._release(reservation)
            raise
        return reservation

    async def settle(self, reservation: Reservation, outcome: Outcome) -> None:
        """Release the reservation if the call was certainly not placed; else keep its marks.

        Raises:
            StoreUnavailable: The store can't be reached.
        """
        if outcome.error_kind == OutcomeUnknown.kind:
            return
        if outcome.call:
            await self._keep(reservation, outcome.call)
        else:
            await self._release(reservation)

    async def _take_place(self, dialing: Dialing) -> str | None:
        """Reserve slots for calls in flight; return their id, or None if there is no limit.

        Raises:
            PolicyDenied: A limit is reached.
        """
        limits, times = self._in_flight(dialing), dialing.at_once
        if not (limits and times):
            return None
        while isinstance(place := await self._storage.reserve(limits, times), LimitExceeded):
            full = next(limit for limit in limits if limit.name == place.name)
            if not await self._free_place(full, dialing):
                reason = f"the limit of {counted(full.amount, 'live call')} is reached"
                hint = f"Wait until a call ends, or end one with update_call. {_RAISE}"
                raise PolicyDenied(f"caps.{full.name}", reason, hint)
        return place

    def _per_time(self, principal: str) -> list[Limit]:
        """Return the limits on calls per day, hour and minute.

        The first one that is reached is reported, so the one with the longest wait comes first.
        """
        return [
            Limit(f"{prefix}{name}", amount, seconds, key)
            for name, seconds in reversed(_WINDOWS.items())
            for prefix, counts, key in self._counts(principal)
            if (amount := getattr(counts, name))
        ]

    def _to_same_number(self) -> list[Limit]:
        return [
            Limit(name, amount, seconds, "")
            for name, amount, seconds in self._often.windows
            if amount
        ]

    def _in_flight(self, dialing: Dialing, principal: str = "") -> list[Limit]:
        """Return the limits on simultaneous calls, by default for the principal of `dialing`."""
        return [
            Limit(f"{prefix}in_flight", counts.in_flight, dialing.lifetime, key)
            for prefix, counts, key in self._counts(principal or dialing.principal)
            if counts.in_flight
        ]

    def _counts(self, principal: str) -> Sequence[tuple[str, Counts, str]]:
        """Return a name prefix, the counts and a key, for all principals and for this one."""
        # The total is per account.
        account_sid, caps = self._account_sid, self._caps
        return (
            ("", caps, account_sid),
            ("principal.", caps.principal, f"{account_sid}/{principal}"),
        )

    async def _free_place(self, full: Limit, dialing: Dialing) -> bool:
        """Free the slots of a call in flight that has ended. Return whether there was one.

        New TwiML of a call ends the calls that its previous TwiML made.
        """
        for place in await self._storage.reservations(full):
            kept = await self._storage.get_with_ttl(_place_key(place))
            if kept is None:  # being placed, or possibly placed
                continue
            call = _Kept(*json.loads(kept[0]))
            is_replaced = call.by_update and call.sid == dialing.sid
            if is_replaced or await self._ended(call.account_sid, call.sid, dialing.until):
                limits = self._in_flight(dialing, call.principal)
                await self._storage.release(limits, place, call.times)
                return True
        return False

    async def _ended(self, account_sid: str, sid: str, until: float) -> CallSummary | None:
        """Return a call that has certainly ended, or None."""
        try:
            call = await self._twilio.read_call(Request.fetch(account_sid, sid), until)
        except NotFound as error:  # only the record of an ended call can be deleted
            return summarize({"sid": sid, "status": "completed"}) if error.is_sure else None
        except InvocationError:
            return None
        return call if call.live is False else None

    async def _calls_to(self, dialing: Dialing, entry: str = "") -> Sequence[CallsTo]:
        """Return how often each party was called. With an `entry`, also count the new calls.

        Raises:
            PolicyDenied: One of them was called too often.
        """
        found = await self._storage.calls_to(self._keys(dialing), self._often, entry)
        if not isinstance(found, LimitExceeded):
            return found
        amount = getattr(self._caps, found.name)
        span = found.name.rpartition("_")[2]
        reason = f"the limit of {counted(amount, 'call')} to the same number per {span} is reached"
        raise PolicyDenied(
            f"caps.{found.name}", reason, f"Wait {about(found.retry_after)}. {_RAISE}"
        )

    async def _spend(self, dialing: Dialing, entry: str = "") -> TalkTime | None:
        """Count and return the talk time of new calls; None if there is no limit.

        Without an `entry`, only check it.

        Raises:
            PolicyDenied: A limit is reached.
        """
        budgets, times = self._budgets(dialing.principal), dialing.at_once
        if not budgets:
            return None
        usual = max(times, 1) * min(_USUAL_TALK, dialing.longest)
        least = min(usual, *(budget.amount for budget in budgets))
        now = await self._storage.now()
        talk = TalkTime(entry, now, least, least, times)  # `most` is higher once they are placed
        while full := await self._storage.spend(budgets, talk):
            counting = await self._storage.spent(full)
            if not await self._correct_one(counting, dialing.until):
                reason = f"the limit of {full.amount // 60} min of talk time per day is reached"
                wait = about(until_room(counting, full, least, now))
                is_live = any(talk.call for talk in counting)  # its real duration may be shorter
                sooner = f"Try again when a call has ended, or in {wait} at the latest."
                hint = sooner if is_live else f"Wait {wait}."
                raise PolicyDenied(f"caps.{full.name}", reason, f"{hint} {_RAISE}")
        return talk

    def _budgets(self, principal: str) -> list[Limit]:
        return [
            Limit(f"{prefix}minutes_per_day", 60 * counts.minutes_per_day, DAY, key)
            for prefix, counts, key in self._counts(principal)
            if counts.minutes_per_day
        ]

    async def _correct_one(self, counting: Sequence[TalkTime], until: float) -> bool:
        """Count the real duration of a call that has ended. Return whether there was one."""
        for talk in counting:
            if not talk.call:  # not placed, or corrected
                continue
            account_sid, sid, principal = json.loads(talk.call)
            if ended := await self._ended(account_sid, sid, until):
                spent = _real_talk(talk, ended, await self._storage.now())
                known = replace(talk, least=spent, most=spent, call="")
                with before_sending():
                    await self._storage.correct(self._budgets(principal), known)
                return True
        return False

    def _keys(self, dialing: Dialing) -> Sequence[str]:
        return [self._digest(f"{self._account_sid}/{party}") for party in dialing.parties]

    async def _release(self, reservation: Reservation) -> None:
        if reservation.id:
            await self._storage.remove_call(self._keys(reservation.dialing), reservation.id)
        if reservation.talk is not None:
            unused = replace(reservation.talk, least=0, most=0)
            await self._storage.correct(self._budgets(reservation.dialing.principal), unused)
        await self._repeated.unmark(reservation.marks)
        if reservation.place is not None:
            limits, times = self._in_flight(reservation.dialing), reservation.dialing.at_once
            await self._storage.release(limits, reservation.place, times)

    async def _keep(self, reservation: Reservation, placed: CallSummary) -> None:
        """Record a call as placed instead of possibly placed."""
        dialing = reservation.dialing
        await self._repeated.confirm(reservation.marks, dialing.parties)
        if reservation.talk is not None:
            talk = reservation.talk
            call = json.dumps((placed.account_sid or "", placed.sid, dialing.principal))
            most = max(talk.least, talk.times * dialing.extended)
            budgets = self._budgets(dialing.principal)
            await self._storage.correct(budgets, replace(talk, most=most, call=call))
        if reservation.place is not None:
            kept = _Kept(
                placed.account_sid or "",
                placed.sid,
                dialing.principal,
                dialing.at_once,
                by_update=bool(dialing.sid),
            )
            key = _place_key(reservation.place)
            await self._storage.set_if_absent(key, dialing.lifetime, json.dumps(kept))


def _real_talk(talk: TalkTime, call: CallSummary, now: float) -> float:
    """Return the talk time of a call that has ended."""
    so_far = talk.seconds(now)
    if call.duration_seconds is None:
        return so_far if call.status == "completed" else 0
    return min(so_far, talk.times * call.duration_seconds)


def _history(dialing: Dialing, calls: Sequence[CallsTo]) -> Iterator[Risk]:
    parties = dict.fromkeys(dialing.parties)
    for party, found in zip(parties, calls, strict=True):
        is_alone = len(parties) == 1
        whom = f"this {noun(party)}" if is_alone else named(party)
        if not found.is_known:
            new = "it" if is_alone else whom
            sentence = f"This server has not called {new} in the past year."
            yield Risk(f"New {noun(party)}", sentence)
        elif found.in_a_day:
            yield Risk("Repeated", f"{ordinal(found.in_a_day + 1)} call to {whom} in 24 h.")


def _newer(
    dialing: Dialing, calls: Sequence[CallsTo], shown: frozenset[str]
) -> EarlierCalls | None:
    """Return the last calls that were placed, or possibly placed, since a preview."""
    found = zip(dict.fromkeys(dialing.parties), calls, strict=True)
    newer = {each.last: party for party, each in found if each.last and each.last not in shown}
    reasons = (f"A call to {named(party)} may have been placed." for party in newer.values())
    return EarlierCalls(tuple(reasons), frozenset(newer)) if newer else None


def _require(limits: Sequence[Limit], exceeded: LimitExceeded | None) -> None:
    if exceeded is None:
        return
    full = next(limit for limit in limits if limit.name == exceeded.name)
    reason = f"the limit of {counted(full.amount, 'call')} {_span(full)} is reached"
    hint = f"Wait {about(exceeded.retry_after)}. {_RAISE}"
    raise PolicyDenied(f"caps.{exceeded.name}", reason, hint)


def _most_calls_to_one(dialing: Dialing) -> int:
    return max(Counter(dialing.parties).values(), default=0)


def _require_room(limits: Sequence[Limit], needed: int, whom: str = "") -> None:
    """Check that the limits could ever allow a change with so many calls."""
    for limit in limits:
        if needed > limit.amount:
            what = "calls" if limit.name.endswith("in_flight") else "calls or messages"
            reason = (
                f"this makes {needed} {what}{whom}, and the limit is {limit.amount} {_span(limit)}"
            )
            hint = f"Call or message fewer numbers in twiml. {_RAISE}"
            raise PolicyDenied(f"caps.{limit.name}", reason, hint)


def _span(limit: Limit) -> str:
    span = limit.name.rpartition("_")[2]  # calls_per_day, in_flight
    return "at a time" if span == "flight" else f"per {span}"


def _place_key(place: str) -> str:
    return f"placed:{place}"
