"""Counters for one process."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, repeat

from limits.aio.storage import MemoryStorage

from calls_mcp.store.counters import Counters, Full, Limit, Share, place

_SWEEP = 60  # seconds


class MemoryWindows(MemoryStorage):
    """The moving windows of `limits` in memory, by a clock of ours, and cheap however large."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[str, _Window] = {}
        self._sweep_at = 0.0

    def acquire_all(self, shares: Sequence[Share]) -> int | None:
        """Take all shares, or none: then the index of one for which there is no room."""
        now = self._clock()
        self._sweep(now)
        for index, share in enumerate(shares):
            if not self._has_room(share, now):
                return index
        for share in shares:
            window = self._windows.setdefault(share.key, _Window(deque(maxlen=share.limit)))
            window.take(share.amount, now, share.seconds)
        return None

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Take `amount` from a window of `expiry` seconds, if it has room."""
        return self.acquire_all([Share(key, limit, expiry, amount)]) is None

    async def clear(self, key: str) -> None:
        """Forget a window."""
        self._windows.pop(key, None)

    async def reset(self) -> int | None:
        """Forget all of them; how many there were."""
        forgotten = len(self._windows)
        self._windows.clear()
        return forgotten

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest was taken that still counts, and how many do."""
        now = self._clock()
        times = self._windows[key].times if key in self._windows else ()
        counting = [time for time in islice(times, limit) if time > now - expiry]
        return (counting[-1], len(counting)) if counting else (now, 0)

    def _has_room(self, share: Share, now: float) -> bool:
        """Whether what is in the way, the newest first, is old enough."""
        times = self._windows[share.key].times if share.key in self._windows else ()
        place = share.limit - share.amount
        return place >= 0 and (len(times) <= place or times[place] <= now - share.seconds)

    def _sweep(self, now: float) -> None:
        """Forget windows that nothing is in; now and then, for there may be many."""
        if now >= self._sweep_at:
            self._windows = {
                k: window for k, window in self._windows.items() if window.lapses > now
            }
            self._sweep_at = now + _SWEEP


@dataclass(slots=True)
class _Window:
    """When something was taken, the newest first, and when all of that lapses."""

    times: deque[float]
    lapses: float = 0.0

    def take(self, amount: int, now: float, seconds: float) -> None:
        """Take note of as many, and forget what does not count any more."""
        while self.times and self.times[-1] <= now - seconds:
            self.times.pop()
        self.times.extendleft(repeat(now, amount))
        self.lapses = now + seconds


class MemoryCounters(Counters):
    """`Counters` for one process; no await comes between a look and what follows from it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._windows = MemoryWindows(clock)
        super().__init__(self._windows, clock)
        self._entered: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._marks: dict[str, tuple[str, float]] = {}

    async def leave(self, limits: Sequence[Limit], entry: str) -> None:
        """Give up an entry, if it still counts."""
        for limit in limits:
            self._entered[place(limit)].pop(entry, None)
        self._purge()

    async def inside(self, limit: Limit) -> Sequence[str]:
        """The entries that count against a limit now, those that lapse first first."""
        self._purge()
        entries = self._entered.get(place(limit), {})
        return sorted(entries, key=lambda entry: entries[entry])

    async def _acquire_all(self, shares: Sequence[Share]) -> int | None:
        return self._windows.acquire_all(shares)

    async def _enter(self, limits: Sequence[Limit], entry: str) -> Full | None:
        self._purge()
        for index, limit in enumerate(limits):
            lapses = self._entered[place(limit)].values()
            if len(lapses) >= limit.amount:
                return Full(index, min(lapses, default=self._clock() + limit.seconds))
        for limit in limits:
            self._entered[place(limit)][entry] = self._clock() + limit.seconds
        return None

    async def _mark(self, key: str, text: str, seconds: float) -> bool:
        self._purge()
        if key in self._marks:
            return False
        self._marks[key] = (text, self._clock() + seconds)
        return True

    async def _unmark(self, key: str, text: str) -> bool:
        self._purge()
        if self._marks.get(key, ("", 0.0))[0] != text:
            return False
        del self._marks[key]
        return True

    async def _marked(self, key: str) -> tuple[str, float] | None:
        self._purge()
        return self._marks.get(key)

    def _purge(self) -> None:
        now = self._clock()
        self._marks = {key: mark for key, mark in self._marks.items() if mark[1] > now}
        for key, entries in [*self._entered.items()]:
            self._entered[key] = {entry: until for entry, until in entries.items() if until > now}
            if not self._entered[key]:
                del self._entered[key]
