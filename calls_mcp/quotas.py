"""What the policy's caps leave of new calls: how many, how many at once, and no number twice."""

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from calls_mcp.errors import InvocationError, NotFound
from calls_mcp.outcome import CallSummary, Outcome, with_warnings
from calls_mcp.policy import Caps, PolicyDenied
from calls_mcp.store import Store, StoreUnavailable

if TYPE_CHECKING:
    from calls_mcp.store.counters import Exhausted, Limit  # 80 ms, for new calls alone

Fetch = Callable[[str, str, float], Awaitable[CallSummary]]
"""Reads a call as it is now, by the SIDs of its account and itself, before a time (anyio's)."""

_HELD_FOR = 600  # seconds
_ENOUGH = "Tell your user, or ask the operator to raise it."


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call that may be placed: `digest` stands for all that is asked of it.

    `longest` is when it will have ended at the latest, in seconds from now; `until` is when all
    must be settled (by anyio's clock).
    """

    to: str
    principal: str
    digest: str
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
class Room:
    """What was taken for a new call: a note of its number, an entry among the calls in flight."""

    call: NewCall
    note: str | None = None
    entry: str | None = None


class Quotas:
    """Counts in the store; `clock` gives the time in epoch seconds."""

    def __init__(self, store: Store, caps: Caps, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._store = store
        self._caps = caps
        self._fetch = fetch
        self._clock = clock

    async def held(self, call: NewCall, own_note: str | None = None) -> Held | None:
        """What stands against placing a call without asking; None if nothing does."""
        counters = self._store.counters
        found: dict[str, str] = {}
        noted = await counters.noted(_number(call))
        if noted is not None and noted[0] != own_note:
            wait = f"wait {noted[1]:.0f} s for another"
            found[noted[0]] = f"A call to the same number was placed just now; {wait}."
        if repeat := await counters.kept(_repeat(call)):
            found[repeat] = repeat
        return Held((*found.values(),), frozenset(found)) if found else None

    async def take(self, call: NewCall, known: frozenset[str]) -> Room | Held:
        """Take room for a call, to be settled, unless more stands against it than is `known`.

        Raises:
            PolicyDenied: A cap is used up.
        """
        note = await self._note(call)
        room = Room(call, note)
        try:
            held = await self.held(call, note)
            if held is not None and not held.marks <= known:
                await self._give_back(room)
                return held
            room = Room(call, note, await self._enter(call))
            await self._count(call)
        except InvocationError:
            await self._give_back(room)
            raise
        return room

    async def settle(self, room: Room, outcome: Outcome) -> Outcome:
        """Give back what was taken for a call that was surely not placed; the outcome, as told."""
        unknown = outcome.get("error", {}).get("kind") == "outcome_unknown"
        try:
            if "call" in outcome or unknown:
                await self._keep(room, outcome)
            else:
                await self._give_back(room)
        except StoreUnavailable:
            warning = "the caps on calls could not be kept, nor a repeat of this be held back"
            return with_warnings(outcome, [warning])
        return outcome

    async def _note(self, call: NewCall) -> str | None:
        seconds = self._caps.same_number_seconds
        return await self._store.counters.note(_number(call), seconds) if seconds else None

    async def _count(self, call: NewCall) -> None:
        limits = [*_windows("all", self._caps), *_windows(call.principal, self._caps)]
        exhausted = await self._store.counters.hit(limits) if limits else None
        if exhausted is not None:
            hint = f"Wait {exhausted.wait:.0f} seconds. {_ENOUGH}"
            raise PolicyDenied(f"caps.{exhausted.name}", "so many calls were placed", hint)

    async def _enter(self, call: NewCall) -> str | None:
        limits = [*_at_once(call.principal, call.longest, self._caps)]
        if not limits:
            return None
        while not isinstance(entered := await self._store.counters.enter(limits), str):
            full = next(limit for limit in limits if limit.name == entered.name)
            if not await self._let_one_go(full, call.until):
                raise _too_many(entered)
        return entered

    async def _let_one_go(self, full: "Limit", until: float) -> bool:
        """Whether one of the calls in flight turns out to have ended."""
        counters = self._store.counters
        for entry in await counters.inside(full):
            kept = await counters.kept(_placed(entry))
            if kept is None:  # it is being placed, or may have been
                continue
            account_sid, sid, principal = cast("tuple[str, str, str]", json.loads(kept))
            if await self._has_ended(account_sid, sid, until):
                await counters.leave([*_at_once(principal, full.seconds, self._caps)], entry)
                return True
        return False

    async def _has_ended(self, account_sid: str, sid: str, until: float) -> bool:
        try:
            return (await self._fetch(account_sid, sid, until)).get("live") is False
        except NotFound as gone:
            return gone.is_sure
        except InvocationError:
            return False

    async def _give_back(self, room: Room) -> None:
        counters, call = self._store.counters, room.call
        if room.note is not None:
            await counters.forget(_number(call), room.note)
        if room.entry is not None:
            limits = [*_at_once(call.principal, call.longest, self._caps)]
            await counters.leave(limits, room.entry)

    async def _keep(self, room: Room, outcome: Outcome) -> None:
        counters, call = self._store.counters, room.call
        if room.note is None and self._caps.same_number_seconds:
            await counters.note(_number(call), self._caps.same_number_seconds, anew=True)
        if "call" not in outcome:
            at = datetime.fromtimestamp(self._clock(), UTC).strftime("%H:%M:%S UTC")
            why = f"The same call was sent at {at} and may have been placed: this may ring twice."
            await counters.keep(_repeat(call), why, _HELD_FOR)
        elif room.entry is not None:
            placed = outcome["call"]
            where = json.dumps([placed.get("account_sid", ""), placed["sid"], call.principal])
            await counters.keep(_placed(room.entry), where, call.longest)


def _too_many(exhausted: "Exhausted") -> PolicyDenied:
    hint = f"Wait until one of them has ended, or end one with update_call. {_ENOUGH}"
    return PolicyDenied(f"caps.{exhausted.name}", "so many calls are live", hint)


def _windows(key: str, caps: Caps) -> Iterator["Limit"]:
    """The limits on how many calls are placed, in all or by one principal, that are set."""
    from calls_mcp.store.counters import Limit  # noqa: PLC0415

    counts, prefix = (caps, "") if key == "all" else (caps.principal, "principal.")
    windows = {
        "calls_per_minute": (counts.calls_per_minute, 60),
        "calls_per_hour": (counts.calls_per_hour, 3600),
        "calls_per_day": (counts.calls_per_day, 86_400),
    }
    for name, (amount, seconds) in windows.items():
        if amount:
            yield Limit(f"{prefix}{name}", amount, seconds, key)


def _at_once(principal: str, seconds: int, caps: Caps) -> Iterator["Limit"]:
    """The limits on how many calls are live at once that are set."""
    from calls_mcp.store.counters import Limit  # noqa: PLC0415

    if caps.in_flight:
        yield Limit("in_flight", caps.in_flight, seconds, "all")
    if caps.principal.in_flight:
        yield Limit("principal.in_flight", caps.principal.in_flight, seconds, principal)


def _number(call: NewCall) -> str:
    return f"number:{call.to}"


def _repeat(call: NewCall) -> str:
    return f"create:{call.digest}"


def _placed(entry: str) -> str:
    return f"placed:{entry}"
