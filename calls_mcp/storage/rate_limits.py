"""Rate limits, shared by replicas through Redis, or counted by each process without it."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio

from calls_mcp.errors import StoreUnavailable

_log = logging.getLogger(__name__)

_TIMEOUT = 1  # second
_LOCAL_FOR = 10  # seconds
_SWEEP_EVERY = 60  # seconds


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` of something for `key`, such as a principal or an account.

    For `Storage.hit`, this is the amount in any period of `seconds`. For `Storage.reserve`, it is
    the amount at a time, and a reservation that is not released counts for `seconds`. `name` is
    for messages, and distinguishes limits with the same key.
    """

    name: str
    amount: int
    seconds: int
    key: str

    @property
    def counter(self) -> str:
        """The key under which a store counts it."""
        return f"{self.name}/{self.key}"


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """Nothing was counted, because the limit `name` is reached for `retry_after` seconds."""

    name: str
    retry_after: float


class RateLimiter:
    """Counts hits with `hit_shared`, or else in this process. `clock` returns epoch seconds.

    While the store can't be reached, the process counts alone, so that requests are not delayed.
    """

    def __init__(
        self,
        hit_shared: Callable[[Sequence[Limit]], Awaitable[LimitExceeded | None]] | None,
        clock: Callable[[], float],
    ) -> None:
        self._hit_shared = hit_shared
        self._clock = clock
        self._local_until = 0.0
        self._hits: dict[str, deque[float]] = {}
        """When each hit expires, by counter."""
        self._sweep_at = 0.0

    async def hit(self, limits: Sequence[Limit]) -> LimitExceeded | None:
        """Count a hit against all limits, or return one that is reached and count nothing."""
        if self._hit_shared is None or self._clock() < self._local_until:
            return self._hit_locally(limits)
        try:
            with anyio.fail_after(_TIMEOUT):
                return await self._hit_shared(limits)
        except (StoreUnavailable, TimeoutError):
            _log.warning(
                "The state store does not respond, so this process counts requests by itself "
                "for the next %d s.",
                _LOCAL_FOR,
            )
            self._local_until = self._clock() + _LOCAL_FOR
            return self._hit_locally(limits)

    def _hit_locally(self, limits: Sequence[Limit]) -> LimitExceeded | None:
        now = self._clock()
        self._sweep(now)
        for limit in limits:
            hits = self._current(limit, now)
            if len(hits) >= limit.amount:
                return LimitExceeded(limit.name, hits[0] - now if hits else limit.seconds)
        for limit in limits:
            self._current(limit, now).append(now + limit.seconds)
        return None

    def _current(self, limit: Limit, now: float) -> deque[float]:
        hits = self._hits.setdefault(limit.counter, deque())
        while hits and hits[0] <= now:
            hits.popleft()
        return hits

    def _sweep(self, now: float) -> None:
        """Remove empty counters once a minute, because there may be many."""
        if now >= self._sweep_at:
            self._hits = {key: hits for key, hits in self._hits.items() if hits and hits[-1] > now}
            self._sweep_at = now + _SWEEP_EVERY
