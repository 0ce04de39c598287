"""How often something is asked for in a while, counted together by all who share a Redis."""

import logging
from collections import deque
from collections.abc import Callable, Sequence

import anyio

from calls_mcp.errors import StoreUnavailable
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.records import Exhausted, Limit

_log = logging.getLogger(__name__)

_PATIENCE = 1  # second
_ALONE = 10  # seconds
_SWEEP = 60  # seconds


class Rates:
    """Counts in the `shared` store, or else in this process; `clock` gives epoch seconds.

    A store that can't be reached delays nobody: for a while, each process counts for itself.
    """

    def __init__(self, shared: Storage | None, clock: Callable[[], float]) -> None:
        self._shared = shared
        self._clock = clock
        self._own = _Windows(clock)
        self._alone_until = 0.0

    async def hit(self, limits: Sequence[Limit]) -> Exhausted | None:
        """Take one from every limit if all have room; otherwise return one that has none."""
        if self._shared is None or self._clock() < self._alone_until:
            return self._own.hit(limits)
        try:
            with anyio.fail_after(_PATIENCE):
                return await self._shared.hit(limits)
        except (StoreUnavailable, TimeoutError):
            _log.warning("Rates are counted by this process alone for the next %d s.", _ALONE)
            self._alone_until = self._clock() + _ALONE
            return self._own.hit(limits)


class _Windows:
    """Moving windows in memory: the times of hits, the newest first, and when all have expired."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._windows: dict[str, tuple[deque[float], float]] = {}
        self._sweep_at = 0.0

    def hit(self, limits: Sequence[Limit]) -> Exhausted | None:
        now = self._clock()
        self._sweep(now)
        for limit in limits:
            times = self._times(limit, now)
            if len(times) >= limit.amount:
                until = times[-1] + limit.seconds if times else now + limit.seconds
                return Exhausted(limit.name, until - now)
        for limit in limits:
            times = self._times(limit, now)
            times.appendleft(now)
            self._windows[limit.place] = times, now + limit.seconds
        return None

    def _times(self, limit: Limit, now: float) -> deque[float]:
        """Return the times that count."""
        times, _ = self._windows.get(limit.place, (deque[float](), 0.0))
        while times and times[-1] <= now - limit.seconds:
            times.pop()
        return times

    def _sweep(self, now: float) -> None:
        """Forget windows without hits; only now and then, because there may be many."""
        if now >= self._sweep_at:
            self._windows = {key: each for key, each in self._windows.items() if each[1] > now}
            self._sweep_at = now + _SWEEP
