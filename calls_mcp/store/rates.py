"""How often something is asked for in a while, counted together by all who share a Redis."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import anyio

from calls_mcp.storage.unavailable import StoreUnavailable

if TYPE_CHECKING:
    from calls_mcp.store.counters import Counters, Exhausted, Limit

_log = logging.getLogger(__name__)

_PATIENCE = 1  # second
_ALONE = 10  # seconds


class Rates:
    """Counts in `shared`, or else in this process; `clock` gives the time in epoch seconds.

    What cannot be reached holds nobody up: for a while, each process counts for itself.
    """

    def __init__(self, shared: "Counters | None", clock: Callable[[], float]) -> None:
        self._shared = shared
        self._clock = clock
        self._own: Counters | None = None
        self._alone_until = 0.0

    async def hit(self, limits: "Sequence[Limit]") -> "Exhausted | None":
        """Take one from every limit if all have room; else none, and name one that has not."""
        if self._shared is None or self._clock() < self._alone_until:
            return await self._here().hit(limits)
        try:
            with anyio.fail_after(_PATIENCE):
                return await self._shared.hit(limits)
        except (StoreUnavailable, TimeoutError):
            _log.warning("Rates are counted by this process alone for the next %d s.", _ALONE)
            self._alone_until = self._clock() + _ALONE
            return await self._here().hit(limits)

    def _here(self) -> "Counters":
        from calls_mcp.store.memory_counters import MemoryCounters  # noqa: PLC0415  # 80 ms

        self._own = self._own or MemoryCounters(self._clock)
        return self._own
