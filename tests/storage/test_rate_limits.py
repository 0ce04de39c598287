import tracemalloc
from dataclasses import replace

import pytest

from calls_mcp.emulator import ManualClock
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.rate_limits import Limit, LimitExceeded, RateLimiter
from calls_mcp.storage.records import StorageOptions

from .redis_server import RedisServer

pytestmark = pytest.mark.anyio

MINUTE = Limit("requests", amount=2, seconds=60, key="me")
OF_ALL = Limit("requests", amount=3, seconds=60, key="all")
NEVER = Limit("never", amount=0, seconds=60, key="me")


async def test_a_process_counts_hits_like_a_store(clock: ManualClock) -> None:
    limiter = RateLimiter(None, clock)
    assert await limiter.hit([MINUTE, OF_ALL]) is None
    clock.advance(20)
    assert await limiter.hit([MINUTE, OF_ALL]) is None
    assert await limiter.hit([OF_ALL, MINUTE]) == LimitExceeded("requests", 40)
    assert await limiter.hit([OF_ALL]) is None
    assert await limiter.hit([NEVER]) == LimitExceeded("never", 60)
    clock.advance(40)
    assert await limiter.hit([MINUTE]) is None


async def test_expired_hits_use_no_memory(clock: ManualClock) -> None:
    limiter, limit = RateLimiter(None, clock), replace(MINUTE, amount=1_000_000)
    await limiter.hit([limit])
    tracemalloc.start()
    try:
        for number in range(5000):
            clock.advance(1)
            await limiter.hit([limit, replace(limit, key=str(number))])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 150_000  # 120 windows, and not 5000


async def test_hits_are_shared_until_the_store_is_down(
    own_redis: RedisServer, clock: ManualClock
) -> None:
    async with open_storage(
        own_redis.url, StorageOptions(clock=clock, is_simulated=True)
    ) as storage:
        one, other = RateLimiter(storage.hit, clock), RateLimiter(storage.hit, clock)
        assert [await each.hit([MINUTE]) for each in (one, other)] == [None, None]
        assert await one.hit([MINUTE]) == LimitExceeded("requests", 60)
        own_redis.stop()
        assert [await each.hit([MINUTE]) for each in (one, one, other)] == [None] * 3
        assert await one.hit([MINUTE]) == LimitExceeded("requests", 60)
        own_redis.start()
        clock.advance(10)
        results = [await each.hit([MINUTE]) for each in (one, other, one)]
        assert results == [None, None, LimitExceeded("requests", 60)]
