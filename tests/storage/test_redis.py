"""The time in a Redis that machines share."""

import time
from collections.abc import AsyncGenerator
from typing import cast

import pytest

from calls_mcp.emulator import ManualClock
from calls_mcp.guard.confirmations import Claim, Confirmations
from calls_mcp.guard.signing import Signer
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.rate_limits import Limit, LimitExceeded
from calls_mcp.storage.records import Binding, PendingConfirmation, StorageOptions
from tests.storage.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.services]

HOUR = 3600
MINUTE = Limit("calls_per_minute", 1, 60, "all")


@pytest.fixture
async def machines(redis_url: str) -> AsyncGenerator[tuple[Storage, Storage]]:
    """The same store, used by a machine with the right time and one that is an hour ahead."""
    fast = StorageOptions(clock=lambda: time.time() + HOUR)
    async with open_storage(redis_url) as here, open_storage(redis_url, fast) as there:
        yield here, there


async def test_machines_whose_clocks_differ_have_the_same_time(
    machines: tuple[Storage, Storage],
) -> None:
    here, there = machines
    assert abs(await here.now() - await there.now()) < HOUR / 2


async def test_what_a_machine_stores_expires_at_the_same_time_for_one_that_is_ahead(
    machines: tuple[Storage, Storage],
) -> None:
    for one, other in (machines, machines[::-1]):
        key = f"key of {id(one)}"
        value = await one.set_if_absent(key, 60)
        assert value
        found = await other.get_with_ttl(key)
        assert found
        assert found[0] == value
        assert 0 < found[1] <= 60 + HOUR / 2
        assert await other.set_if_absent(key, 60) is None
        assert await other.delete_if_equal(key, value)


async def test_machines_whose_clocks_differ_share_their_limits(
    machines: tuple[Storage, Storage],
) -> None:
    for one, other in (machines, machines[::-1]):
        limit = Limit("calls_per_minute", 1, 60, f"key of {id(one)}")
        assert await one.hit([limit]) is None
        assert isinstance(await other.hit([limit]), LimitExceeded)
        assert isinstance(await other.check_limits([limit]), LimitExceeded)
        reservation = await one.reserve([limit])
        assert await other.reservations(limit) == [reservation]


async def test_a_confirmation_is_valid_on_a_machine_that_is_ahead(
    machines: tuple[Storage, Storage],
) -> None:
    here, there = machines
    pending = PendingConfirmation(Binding("create_call", "d", "ann"), "", await here.now() + 60)
    await here.add_confirmation("one", pending)
    claim = await Confirmations(there, Signer(["k" * 32]), 60).claim("one", pending)
    assert isinstance(claim, Claim)


async def test_the_time_of_redis_is_not_read_at_each_change(own_redis: RedisServer) -> None:
    async with open_storage(own_redis.url) as storage:
        for number in range(5):
            await storage.hit([MINUTE])
            await storage.set_if_absent(str(number), 60)
    commands = cast("dict[str, dict[str, int]]", own_redis.run("INFO", "commandstats"))
    assert commands["cmdstat_time"]["calls"] == 1


async def test_simulated_time_is_used_instead_of_that_of_redis(redis_url: str) -> None:
    clock = ManualClock(1000)
    options = StorageOptions(clock=clock, is_simulated=True)
    async with open_storage(redis_url, options) as storage:
        assert await storage.now() == 1000
        clock.advance(5)
        assert await storage.now() == 1005
