"""Limits, and values that expire."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis

from calls_mcp.emulator import ManualClock
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.rate_limits import Limit, LimitExceeded
from calls_mcp.storage.records import StorageOptions

from . import processes

pytestmark = pytest.mark.anyio

KEY = "+15005550205"
MINUTE = Limit("calls_per_minute", amount=2, seconds=60, key="me")
HOUR = Limit("calls_per_hour", amount=3, seconds=3600, key="me")
OF_ALL = Limit("calls_per_minute", amount=3, seconds=60, key="all")
NEVER = Limit("never", amount=0, seconds=60, key="me")
WIDE = Limit("wide", amount=1000, seconds=60, key="all")
NARROW = Limit("narrow", amount=10, seconds=60, key="all")


async def hits(storage: Storage, limits: Sequence[Limit], times: int) -> list[str]:
    """Count hits one after another; return the exceeded limit of each, or ""."""
    results = [await storage.hit(limits) for _ in range(times)]
    return [result.name if result else "" for result in results]


async def reserved(storage: Storage, *limits: Limit) -> str:
    reservation = await storage.reserve(limits)
    assert isinstance(reservation, str)
    return reservation


async def test_a_limit_allows_its_amount(storage: Storage) -> None:
    assert await hits(storage, [MINUTE], 4) == ["", "", "calls_per_minute", "calls_per_minute"]
    assert await hits(storage, [], 3) == ["", "", ""]
    assert await storage.hit([NEVER]) == LimitExceeded("never", 60)
    assert await storage.reserve([NEVER]) == LimitExceeded("never", 60)


async def test_a_limit_allows_more_when_the_oldest_hit_expires(
    storage: Storage, clock: ManualClock
) -> None:
    await storage.hit([MINUTE])
    clock.advance(20)
    await storage.hit([MINUTE])
    clock.advance(39)
    assert await storage.hit([MINUTE]) == LimitExceeded("calls_per_minute", 1)
    clock.advance(1)
    assert await hits(storage, [MINUTE], 2) == ["", "calls_per_minute"]


async def test_the_use_of_a_limit_is_read_without_counting(
    storage: Storage, clock: ManualClock
) -> None:
    assert (await storage.count_hits(WIDE), await storage.count_reserved(WIDE)) == (0, 0)
    await storage.hit([WIDE], 2)
    reservation = await storage.reserve([WIDE], 3)
    clock.advance(30)
    await storage.hit([WIDE])
    for _ in range(2):
        assert (await storage.count_hits(WIDE), await storage.count_reserved(WIDE)) == (3, 3)
    await storage.release([WIDE], str(reservation), 3)
    clock.advance(30)
    assert (await storage.count_hits(WIDE), await storage.count_reserved(WIDE)) == (1, 0)


async def test_keys_names_hits_and_reservations_are_counted_separately(storage: Storage) -> None:
    await hits(storage, [MINUTE], 2)
    assert await hits(storage, [OF_ALL], 1) == [""]
    assert await hits(storage, [HOUR], 1) == [""]
    await reserved(storage, MINUTE)


async def test_no_limit_counts_when_one_is_exceeded(storage: Storage, clock: ManualClock) -> None:
    assert await hits(storage, [MINUTE, HOUR, OF_ALL], 2) == ["", ""]
    assert await hits(storage, [OF_ALL, MINUTE], 9) == ["calls_per_minute"] * 9
    assert await hits(storage, [OF_ALL], 2) == ["", "calls_per_minute"]
    clock.advance(60)
    assert await hits(storage, [MINUTE, HOUR], 3) == ["", "calls_per_hour", "calls_per_hour"]
    assert await hits(storage, [MINUTE], 2) == ["", "calls_per_minute"]


async def test_several_hits_are_counted_only_if_all_have_room(storage: Storage) -> None:
    limit = Limit("calls", 3, 60, "a")
    assert await storage.hit([limit], 2) is None
    assert await storage.hit([limit], 2) == LimitExceeded("calls", 60)
    assert await storage.hit([limit]) is None
    assert await storage.check_limits([limit]) is not None
    assert await storage.check_limits([Limit("calls", 4, 60, "a")]) is None
    assert await storage.check_limits([Limit("calls", 4, 60, "a")], 2) is not None
    assert await storage.hit([Limit("calls", 3, 60, "b")], 4) == LimitExceeded("calls", 60)


async def test_the_wait_for_several_hits_is_until_all_have_room(
    storage: Storage, clock: ManualClock
) -> None:
    limit = Limit("calls", 3, 60, "a")
    for _ in range(3):
        await storage.hit([limit])
        clock.advance(10)
    expected = [LimitExceeded("calls", seconds) for seconds in (30, 40, 50, 60)]
    assert [await storage.check_limits([limit], times) for times in (1, 2, 3, 4)] == expected
    assert [await storage.hit([limit], times) for times in (1, 2, 3, 4)] == expected


async def test_checking_limits_counts_nothing(storage: Storage, clock: ManualClock) -> None:
    assert await storage.check_limits([]) is None
    assert await storage.check_limits([NEVER]) == LimitExceeded("never", 60)
    await storage.hit([MINUTE])
    for _ in range(3):
        assert await storage.check_limits([HOUR, MINUTE]) is None
    clock.advance(10)
    await storage.hit([MINUTE])
    assert await storage.check_limits([HOUR, MINUTE]) == LimitExceeded("calls_per_minute", 50)
    clock.advance(50)
    assert await storage.check_limits([HOUR, MINUTE]) is None


async def test_a_reservation_counts_until_it_is_released(storage: Storage) -> None:
    first = await reserved(storage, MINUTE)
    await reserved(storage, MINUTE)
    assert await storage.reserve([MINUTE]) == LimitExceeded("calls_per_minute", 60)
    for _ in range(2):  # only the first one releases it
        await storage.release([MINUTE], first)
    await reserved(storage, MINUTE)
    assert isinstance(await storage.reserve([MINUTE]), LimitExceeded)


async def test_a_reservation_of_several_is_made_listed_and_released_as_one(
    storage: Storage,
) -> None:
    limit = Limit("in_flight", 3, 60, "a")
    two = await storage.reserve([limit], 2)
    assert isinstance(two, str)
    assert await storage.reserve([limit], 2) == LimitExceeded("in_flight", 60)
    one = await reserved(storage, limit)
    assert {*await storage.reservations(limit)} == {one, two}
    await storage.release([limit], two, 2)
    assert await storage.reservations(limit) == [one]
    assert isinstance(await storage.reserve([limit], 2), str)


async def test_reservations_are_listed_in_the_order_they_expire(
    storage: Storage, clock: ManualClock
) -> None:
    first = await reserved(storage, MINUTE)
    clock.advance(20)
    second = await reserved(storage, MINUTE)
    assert [*await storage.reservations(MINUTE)] == [first, second]
    assert await storage.reserve([MINUTE]) == LimitExceeded("calls_per_minute", 40)
    clock.advance(40)
    assert [*await storage.reservations(MINUTE)] == [second]
    third = await reserved(storage, MINUTE)
    assert await storage.reserve([MINUTE]) == LimitExceeded("calls_per_minute", 20)
    await storage.release([MINUTE], second)
    assert [*await storage.reservations(MINUTE)] == [third]


async def test_no_limit_reserves_when_one_is_exceeded(
    storage: Storage,
) -> None:
    reservations = [await reserved(storage, OF_ALL, MINUTE) for _ in range(2)]
    exceeded = LimitExceeded("calls_per_minute", 60)
    assert [await storage.reserve([OF_ALL, MINUTE]) for _ in range(9)] == [exceeded] * 9
    await reserved(storage, OF_ALL)
    assert isinstance(await storage.reserve([OF_ALL]), LimitExceeded)
    await storage.release([OF_ALL, MINUTE], reservations[0])
    await reserved(storage, OF_ALL, MINUTE)


async def test_a_value_stays_until_it_expires(storage: Storage, clock: ManualClock) -> None:
    text = "its outcome is unknown: ü \n 'x'"
    assert await storage.get_with_ttl(KEY) is None
    assert await storage.set_if_absent(KEY, 60, text) == text
    assert await storage.get_with_ttl("+15005550206") is None
    clock.advance(59)
    assert await storage.set_if_absent(KEY, 60, "again") is None
    assert await storage.get_with_ttl(KEY) == (text, 1)
    clock.advance(1)
    assert await storage.get_with_ttl(KEY) is None
    assert not await storage.delete_if_equal(KEY, text)
    assert await storage.set_if_absent(KEY, 60, "again") == "again"


async def test_a_value_is_deleted_once_and_only_if_equal(storage: Storage) -> None:
    value = await storage.set_if_absent(KEY, 60)
    assert value
    assert not await storage.delete_if_equal(KEY, "another")
    assert await storage.get_with_ttl(KEY) == (value, 60)
    assert await storage.delete_if_equal(KEY, value)
    assert await storage.get_with_ttl(KEY) is None
    assert not await storage.delete_if_equal(KEY, value)


async def hit(storage: Storage) -> bool:
    return await storage.hit([WIDE, NARROW]) is None


async def reserve(storage: Storage) -> bool:
    return isinstance(await storage.reserve([WIDE, NARROW]), str)


async def set_value(storage: Storage) -> bool:
    return await storage.set_if_absent(KEY, 60) is not None


@pytest.mark.process
@pytest.mark.parametrize(("operation", "room"), [(hit, 10), (reserve, 10), (set_value, 1)])
async def test_concurrent_processes_do_not_exceed_a_limit(
    shared_url: str,
    options: StorageOptions,
    operation: Callable[[Storage], Awaitable[bool]],
    room: int,
) -> None:
    found = processes.run_in_each(processes.count_successes, operation, shared_url)
    assert sum(found) == room
    if operation is hit:  # what found the one limit exceeded has counted nothing in the other
        wide = replace(WIDE, amount=NARROW.amount + 1)
        async with open_storage(shared_url, options) as storage:
            assert await hits(storage, [wide], 2) == ["", "wide"]


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_a_repeated_redis_command_counts_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the library does when the response to the first is lost: it has the same entry.
    monkeypatch.setattr("calls_mcp.storage.interface.secrets.token_urlsafe", str)
    assert await hits(storage, [MINUTE], 3) == [""] * 3


async def test_values_and_reservations_of_an_earlier_version_in_redis_still_count(
    redis_url: str, options: StorageOptions, clock: ManualClock
) -> None:
    client: Any = redis.Redis.from_url(redis_url)  # pyright: ignore[reportUnknownMemberType]
    value = {"writer": "it", "text": "sent", "until": clock() + 60}
    client.hset("calls-mcp:noted/sent:AC0:+1", mapping=value)
    client.zadd("calls-mcp:entered/in_flight/AC0", {"placed": clock() + 60})
    client.close()
    in_flight = Limit("in_flight", 1, 60, "AC0")
    async with open_storage(redis_url, options) as storage:
        assert await storage.get_with_ttl("sent:AC0:+1") == ("sent", 60)
        assert await storage.set_if_absent("sent:AC0:+1", 60) is None
        assert await storage.reserve([in_flight]) == LimitExceeded("in_flight", 60)
        assert await storage.reservations(in_flight) == ["placed"]
