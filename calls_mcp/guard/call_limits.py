"""What the policy's caps leave of new calls: how many, how many at once, and no number twice."""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from secrets import token_urlsafe
from typing import cast

from calls_mcp.errors import (
    InvocationError,
    NotFound,
    OutcomeUnknown,
    PolicyDenied,
    StoreUnavailable,
)
from calls_mcp.guard.policy import Caps, Counts
from calls_mcp.storage import Limit, LimitExceeded, Storage
from calls_mcp.tools.outcome import CallSummary, Outcome

Fetch = Callable[[str, str, float], Awaitable[CallSummary]]
"""Reads a call as it is now, by the SIDs of its account and itself, before a time (anyio's)."""

_HELD_FOR = 600  # seconds, at least
_LATE = 60  # seconds
_ENOUGH = "Tell your user, or ask the operator to raise it."


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call that may be placed; `to` is the one spelling of all that reach the same.

    `longest` is when it will have ended at the latest, in seconds from now; `until` is when all
    must be settled (by anyio's clock).
    """

    to: str
    account_sid: str
    principal: str
    longest: int
    until: float


@dataclass(frozen=True, slots=True)
class Held:
    """Why a call needs to be confirmed, even where the policy asks for no confirmation.

    `marks` stand for what it says, so that a later look can tell whether that is still all.
    """

    reasons: tuple[str, ...] = ()
    marks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Note:
    """A note under `key`, which took the place of one that had `left` seconds still to stand."""

    key: str
    text: str
    before: str = ""
    left: float = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What was taken for a new call: notes of it, and an entry among the calls in flight."""

    call: NewCall
    notes: tuple[_Note, ...] = ()
    entry: str | None = None


class Quotas:
    """Counts in the store the calls of one account; `clock` gives the time in epoch seconds.

    `deadline` is how many seconds placing a call may take.
    """

    def __init__(
        self,
        storage: Storage,
        caps: Caps,
        fetch: Fetch,
        clock: Callable[[], float],
        account_sid: str,
        deadline: float = 0,
    ) -> None:
        self._storage = storage
        self._caps = caps
        self._fetch = fetch
        self._clock = clock
        self._account_sid = account_sid
        self._held_for = max(_HELD_FOR, deadline + _LATE)

    async def held(self, call: NewCall) -> Held | None:
        """Return what stands against placing a call without asking."""
        noted = await self._storage.get_with_ttl(_number(call))
        sent = await self._storage.get_with_ttl(_sent(call))
        found: dict[str, str] = {}
        if sent is not None:
            found[sent[0]] = sent[0].partition("\0")[0]
        if noted is not None:
            rule = f"the policy asks anew about another in the next {noted[1]:.0f} s"
            # Of a call that may have been placed, it is not known that it was.
            found[noted[0]] = (
                "" if sent else f"A call to the same number was placed just now; {rule}."
            )
        reasons = tuple(reason for reason in found.values() if reason)
        return Held(reasons, frozenset(found)) if found else None

    async def require_room(self, call: NewCall) -> None:
        """Do nothing if there is room for a call, as far as can be told without taking it.

        Raises:
            PolicyDenied: A cap is used up.
        """
        _require(await self._storage.check_limits(self._windows(call.principal)))

    async def take(self, call: NewCall, known: frozenset[str]) -> Room | Held:
        """Take room for a call, to be settled, unless more stands against it than is `known`.

        Raises:
            PolicyDenied: A cap is used up.
        """
        while (room := await self._noted(call, known)) is None:
            held = await self.held(call)
            if held is not None and not held.marks <= known:
                return held
        try:
            room = replace(room, entry=await self._reserve(call))
            _require(await self._storage.hit(self._windows(call.principal)))
        except InvocationError:
            await self._abandon(room)
            raise
        return room

    async def settle(self, room: Room, outcome: Outcome) -> Outcome:
        """Give back what was taken for a call that was surely not placed; the outcome, as told."""
        if outcome.error_kind == OutcomeUnknown.kind:
            return outcome
        try:
            if outcome.call:
                await self._keep(room, outcome.call)
            else:
                await self._give_back(room)
        except StoreUnavailable:
            return outcome.with_warnings(["the caps on calls could not be kept"])
        return outcome

    def _to_note(self, call: NewCall) -> Iterator[tuple[str, float, str]]:
        """What is noted of a call before it is sent, so that it survives whatever comes then."""
        at = datetime.fromtimestamp(self._clock(), UTC).strftime("%H:%M:%S UTC")
        why = f"A call to the same number was sent at {at} and may have been placed: this may ring"
        yield _sent(call), self._held_for, f"{why} twice.\0{token_urlsafe(9)}"
        if self._caps.same_number_seconds:
            yield _number(call), self._caps.same_number_seconds, ""

    async def _noted(self, call: NewCall, known: frozenset[str]) -> Room | None:
        """Room with all notes of a call; None if another has noted one of them.

        All take the notes in one order and go no further than the first that they miss, so that
        of those who ask at the same time one gets them all.
        """
        room = Room(call)
        try:
            for key, seconds, text in self._to_note(call):
                note = await self._note(key, seconds, text, known)
                if note is None:
                    await self._give_back(room)
                    return None
                room = replace(room, notes=(*room.notes, note))
        except StoreUnavailable:
            await self._abandon(room)
            raise
        return room

    async def _note(
        self, key: str, seconds: float, text: str, known: frozenset[str]
    ) -> _Note | None:
        """A note under `key`, in place of one that is `known`; None if there is another."""
        if note := await self._storage.set_if_absent(key, seconds, text):
            return _Note(key, note)
        before, left = await self._storage.get_with_ttl(key) or ("", 0.0)
        is_ours = before in known and await self._storage.delete_if_equal(key, before)
        note = await self._storage.set_if_absent(key, seconds, text) if is_ours else None
        return _Note(key, note, before, left) if note else None

    async def _reserve(self, call: NewCall) -> str | None:
        """Reserve a place among the calls that are live at once, if there are limits on them."""
        limits = self._at_once(call.principal, call.longest)
        if not limits:
            return None
        while isinstance(reserved := await self._storage.reserve(limits), LimitExceeded):
            full = next(limit for limit in limits if limit.name == reserved.name)
            if not await self._let_one_go(full, call.until):
                raise _too_many(reserved)
        return reserved

    def _windows(self, principal: str) -> list[Limit]:
        """The limits that are set on how many calls are placed in a while."""
        return [
            Limit(f"{prefix}{name}", amount, seconds, key)
            for prefix, counts, key in self._counts(principal)
            for name, amount, seconds in (
                ("calls_per_minute", counts.calls_per_minute, 60),
                ("calls_per_hour", counts.calls_per_hour, 3600),
                ("calls_per_day", counts.calls_per_day, 86_400),
            )
            if amount
        ]

    def _at_once(self, principal: str, seconds: int) -> list[Limit]:
        """The limits that are set on how many calls are live at once."""
        return [
            Limit(f"{prefix}in_flight", counts.in_flight, seconds, key)
            for prefix, counts, key in self._counts(principal)
            if counts.in_flight
        ]

    def _counts(self, principal: str) -> Sequence[tuple[str, Counts, str]]:
        """What is allowed in all and to one principal, and what each is counted under."""
        account_sid, caps = self._account_sid, self._caps
        return (
            ("", caps, account_sid),
            ("principal.", caps.principal, f"{account_sid}/{principal}"),
        )

    async def _let_one_go(self, full: Limit, until: float) -> bool:
        """Whether one of the calls in flight turns out to have ended."""
        for entry in await self._storage.reservations(full):
            noted = await self._storage.get_with_ttl(_placed(entry))
            if noted is None:  # it is being placed, or may have been
                continue
            account_sid, sid, principal = cast("tuple[str, str, str]", json.loads(noted[0]))
            if await self._has_ended(account_sid, sid, until):
                await self._storage.release(self._at_once(principal, full.seconds), entry)
                return True
        return False

    async def _has_ended(self, account_sid: str, sid: str, until: float) -> bool:
        try:
            return (await self._fetch(account_sid, sid, until)).live is False
        except NotFound as gone:
            return gone.is_sure
        except InvocationError:
            return False

    async def _give_back(self, room: Room) -> None:
        for note in room.notes:
            await self._undo(note)
        if room.entry is not None:
            limits = self._at_once(room.call.principal, room.call.longest)
            await self._storage.release(limits, room.entry)

    async def _abandon(self, room: Room) -> None:
        """Give back what can be: the rest lapses, and something else is what is to be told."""
        with suppress(StoreUnavailable):
            await self._give_back(room)

    async def _undo(self, note: _Note) -> None:
        await self._storage.delete_if_equal(note.key, note.text)
        if note.before:
            await self._storage.set_if_absent(note.key, note.left, note.before)

    async def _keep(self, room: Room, placed: CallSummary) -> None:
        """A call that was placed is not one that may have been."""
        for note in room.notes:
            if note.key == _sent(room.call):
                await self._undo(note)
        if room.entry is not None:
            where = json.dumps([placed.account_sid or "", placed.sid, room.call.principal])
            await self._storage.set_if_absent(_placed(room.entry), room.call.longest, where)


def _require(exhausted: LimitExceeded | None) -> None:
    if exhausted is not None:
        hint = f"Wait {exhausted.retry_after:.0f} s. {_ENOUGH}"
        raise PolicyDenied(f"caps.{exhausted.name}", "so many calls were placed", hint)


def _too_many(exhausted: LimitExceeded) -> PolicyDenied:
    hint = f"Wait until one of them has ended, or end one with update_call. {_ENOUGH}"
    return PolicyDenied(f"caps.{exhausted.name}", "so many calls are live", hint)


def _number(call: NewCall) -> str:
    return f"number:{call.account_sid}:{call.to}"


def _sent(call: NewCall) -> str:
    return f"sent:{call.account_sid}:{call.to}"


def _placed(entry: str) -> str:
    return f"placed:{entry}"
