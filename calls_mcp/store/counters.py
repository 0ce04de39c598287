"""How much there has been of something, and how much there is: what caps are made of.

The windows are those of the `limits` library: moving ones, over its storages. Two things are added
to these: they live by the store's clock, and room in several windows is taken in all or in none.
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from limits import RateLimitItemPerSecond
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` of what `key` stands for (a principal, say, or "all").

    For `Counters.hit`, that is the amount in any `seconds`. For `Counters.enter`, it is the amount
    at any one time, and `seconds` is how long an entry counts if nobody lets it go. `name` is for
    messages, and tells limits of one key apart.
    """

    name: str
    amount: int
    seconds: int
    key: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nothing was taken: the limit of this name has no room, and gets some in `wait` seconds."""

    name: str
    wait: float


@dataclass(frozen=True, slots=True)
class Share:
    """What is wanted of one window: `amount` more of `limit` in `seconds`."""

    key: str
    limit: int
    seconds: int
    amount: int = 1


@dataclass(frozen=True, slots=True)
class Full:
    """The limit at `index` has no room before `until` (epoch seconds)."""

    index: int
    until: float


class Counters(ABC):
    """Counters in one place, by a clock (epoch seconds). Each method is atomic across processes.

    `windows` is the storage of `hit`, as `limits` knows it.

    Every method raises StoreUnavailable if that place can't be reached; those that are called
    after something was sent (`leave`, `forget`) raise Unrecorded instead.
    """

    def __init__(self, windows: Storage, clock: Callable[[], float]) -> None:
        self.windows = windows
        self._limiter = MovingWindowRateLimiter(windows)
        self._clock = clock

    async def exhausted(self, limits: Sequence[Limit]) -> Exhausted | None:
        """A limit that has no room now, if there is one; nothing is taken."""
        for limit in limits:
            if not await self._limiter.test(_item(limit), limit.key):
                return await self._told(limit)
        return None

    async def hit(self, limits: Sequence[Limit]) -> Exhausted | None:
        """Take one from every limit if all have room; else none, and name one that has not."""
        shares = [
            Share(_item(each).key_for(each.key), each.amount, each.seconds) for each in limits
        ]
        full = await self._acquire_all(shares)
        return None if full is None else await self._told(limits[full])

    async def enter(self, limits: Sequence[Limit]) -> str | Exhausted:
        """Enter everywhere if there is room everywhere; the entry, to `leave` with."""
        entry = secrets.token_urlsafe(9)
        full = await self._enter(limits, entry)
        return entry if full is None else self._exhausted(limits[full.index], full.until)

    @abstractmethod
    async def leave(self, limits: Sequence[Limit], entry: str) -> None:
        """Give up an entry, if it still counts."""

    @abstractmethod
    async def inside(self, limit: Limit) -> Sequence[str]:
        """The entries that count against a limit now, those that lapse first first."""

    async def note(self, key: str, seconds: float, text: str = "") -> str | None:
        """Note `text`, or else some text of its own, under `key` for `seconds`.

        Returns:
            The text; None, and nothing is noted, if another is noted there already.
        """
        note = text or secrets.token_urlsafe(9)
        is_noted = await self._mark(f"noted/{key}", note, seconds)
        return note if is_noted else None

    async def forget(self, key: str, note: str) -> bool:
        """Take back a note of `key`: whether it was still there, which is so for one caller."""
        return await self._unmark(f"noted/{key}", note)

    async def noted(self, key: str) -> tuple[str, float] | None:
        """The note of `key`, and for how many more seconds it stands; None if there is none."""
        marked = await self._marked(f"noted/{key}")
        return marked and (marked[0], max(0.0, marked[1] - self._clock()))

    async def _told(self, limit: Limit) -> Exhausted:
        """How long it takes until a window has room again."""
        window = await self._limiter.get_window_stats(_item(limit), limit.key)
        return self._exhausted(limit, window.reset_time)

    def _exhausted(self, limit: Limit, until: float) -> Exhausted:
        return Exhausted(limit.name, max(0.0, until - self._clock()))

    @abstractmethod
    async def _acquire_all(self, shares: Sequence[Share]) -> int | None:
        """Take all shares, or none: then the index of one for which there is no room."""

    @abstractmethod
    async def _enter(self, limits: Sequence[Limit], entry: str) -> Full | None:
        """Enter everywhere, or nowhere: then where there is no room."""

    @abstractmethod
    async def _mark(self, key: str, text: str, seconds: float) -> bool:
        """Mark `key`, unless it is marked already: whether it was done."""

    @abstractmethod
    async def _unmark(self, key: str, text: str) -> bool:
        """Take away a mark, if it has this text: whether it was done."""

    @abstractmethod
    async def _marked(self, key: str) -> tuple[str, float] | None:
        """The text of a mark, and when (epoch seconds) it lapses."""


def _item(limit: Limit) -> RateLimitItemPerSecond:
    return RateLimitItemPerSecond(limit.amount, limit.seconds, limit.name)


def place(limit: Limit) -> str:
    """The key under which the entries of a limit are kept."""
    return f"entered/{limit.name}/{limit.key}"
