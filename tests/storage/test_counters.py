import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis

from calls_mcp.emulator import ManualClock
from calls_mcp.storage import Limit, LimitExceeded, Storage, StorageOptions, open_storage
from calls_mcp.storage.rate_limiter import RateLimiter

from . import crew
from .redis_server import RedisServer

pytestmark = pytest.mark.anyio

CALLEE = "+15005550205"
MINUTE = Limit("calls_per_minute", amount=2, seconds=60, key="me")
HOUR = Limit("calls_per_hour", amount=3, seconds=3600, key="me")
OF_ALL = Limit("calls_per_minute", amount=3, seconds=60, key="all")
NEVER = Limit("never", amount=0, seconds=60, key="me")


async def hits(storage: Storage, limits: Sequence[Limit], times: int) -> list[str]:
    """Names of what was exhausted, or "", for one hit after the other."""
    results = [await storage.hit(limits) for _ in range(times)]
    return [result.name if result else "" for result in results]


async def left(storage: Storage, key: str) -> float | None:
    """For how many more seconds a key is noted."""
    noted = await storage.get_with_ttl(key)
    return noted and noted[1]


async def entered(storage: Storage, *limits: Limit) -> str:
    entry = await storage.reserve(limits)
    assert isinstance(entry, str)
    return entry


async def test_a_limit_gives_as_much_as_it_has(storage: Storage) -> None:
    assert await hits(storage, [MINUTE], 4) == ["", "", "calls_per_minute", "calls_per_minute"]
    assert await hits(storage, [], 3) == ["", "", ""]
    assert await storage.hit([NEVER]) == LimitExceeded("never", 60)
    assert await storage.reserve([NEVER]) == LimitExceeded("never", 60)


async def test_room_comes_back_when_the_oldest_has_left_the_window(
    storage: Storage, clock: ManualClock
) -> None:
    await storage.hit([MINUTE])
    clock.advance(20)
    await storage.hit([MINUTE])
    clock.advance(39)
    assert await storage.hit([MINUTE]) == LimitExceeded("calls_per_minute", 1)
    clock.advance(1)
    assert await hits(storage, [MINUTE], 2) == ["", "calls_per_minute"]


async def test_keys_and_names_are_counted_apart(storage: Storage) -> None:
    await hits(storage, [MINUTE], 2)
    assert await hits(storage, [OF_ALL], 1) == [""]
    assert await hits(storage, [HOUR], 1) == [""]
    await entered(storage, MINUTE)  # being in is not having been


async def test_nothing_is_taken_when_one_of_several_is_exhausted(
    storage: Storage, clock: ManualClock
) -> None:
    assert await hits(storage, [MINUTE, HOUR, OF_ALL], 2) == ["", ""]
    assert await hits(storage, [OF_ALL, MINUTE], 9) == ["calls_per_minute"] * 9
    assert await hits(storage, [OF_ALL], 2) == ["", "calls_per_minute"]
    clock.advance(60)
    assert await hits(storage, [MINUTE, HOUR], 3) == ["", "calls_per_hour", "calls_per_hour"]
    assert await hits(storage, [MINUTE], 2) == ["", "calls_per_minute"]


async def test_looking_for_room_takes_none(storage: Storage, clock: ManualClock) -> None:
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


async def test_the_second_note_of_a_number_is_told_so_until_the_first_lapses(
    storage: Storage, clock: ManualClock
) -> None:
    assert await left(storage, CALLEE) is None
    assert await storage.set_if_absent(CALLEE, 60)
    clock.advance(59)
    assert not await storage.set_if_absent(CALLEE, 60)
    assert await left(storage, CALLEE) == 1
    assert await left(storage, "+15005550206") is None
    clock.advance(1)
    assert await left(storage, CALLEE) is None
    assert await storage.set_if_absent(CALLEE, 60)


async def test_a_note_is_forgotten_by_whoever_made_it_once_and_by_nobody_else(
    storage: Storage,
) -> None:
    first = await storage.set_if_absent(CALLEE, 60)
    assert first is not None
    assert not await storage.delete_if_equal(CALLEE, "another")
    assert await left(storage, CALLEE) == 60
    assert await storage.delete_if_equal(CALLEE, first)
    assert await left(storage, CALLEE) is None
    assert not await storage.delete_if_equal(CALLEE, first)


async def test_those_inside_are_told_in_the_order_in_which_they_lapse(
    storage: Storage, clock: ManualClock
) -> None:
    assert [*await storage.reservations(HOUR)] == []
    first = await entered(storage, HOUR)
    clock.advance(1)
    entries = [first, await entered(storage, HOUR)]
    assert [*await storage.reservations(HOUR)] == entries
    await storage.release([HOUR], first)
    assert [*await storage.reservations(HOUR)] == entries[1:]
    clock.advance(3600)
    assert [*await storage.reservations(HOUR)] == []


async def test_a_note_has_the_text_that_is_given(storage: Storage, clock: ManualClock) -> None:
    text = "its outcome is unknown: ü \n 'x'"
    assert await storage.set_if_absent("digest", 60, text) == text
    assert await storage.set_if_absent("digest", 60, "again") is None
    assert await storage.get_with_ttl("digest") == (text, 60)
    clock.advance(60)
    assert not await storage.delete_if_equal("digest", text)
    assert await storage.set_if_absent("digest", 60, "again") == "again"


async def test_only_so_many_are_in_at_once(storage: Storage) -> None:
    first = await entered(storage, MINUTE)
    await entered(storage, MINUTE)
    assert await storage.reserve([MINUTE]) == LimitExceeded("calls_per_minute", 60)
    for _ in range(2):  # which makes room once
        await storage.release([MINUTE], first)
    assert isinstance(await storage.reserve([MINUTE]), str)
    assert isinstance(await storage.reserve([MINUTE]), LimitExceeded)


async def test_whoever_died_inside_is_out_when_their_lease_ends(
    storage: Storage, clock: ManualClock
) -> None:
    await entered(storage, MINUTE)
    clock.advance(20)
    await entered(storage, MINUTE)
    assert await storage.reserve([MINUTE]) == LimitExceeded("calls_per_minute", 40)
    clock.advance(40)
    await entered(storage, MINUTE)
    assert await storage.reserve([MINUTE]) == LimitExceeded("calls_per_minute", 20)


async def test_nobody_enters_anywhere_when_one_place_is_full(storage: Storage) -> None:
    entries = [await entered(storage, OF_ALL, MINUTE) for _ in range(2)]
    assert [await storage.reserve([OF_ALL, MINUTE]) for _ in range(9)] == [
        LimitExceeded("calls_per_minute", 60)
    ] * 9
    await entered(storage, OF_ALL)
    assert isinstance(await storage.reserve([OF_ALL]), LimitExceeded)
    await storage.release([OF_ALL, MINUTE], entries[0])
    await entered(storage, OF_ALL, MINUTE)


@pytest.mark.process
@pytest.mark.parametrize(("deed", "room"), [(crew.hit, 10), (crew.enter, 10), (crew.note, 1)])
def test_four_processes_at_once_get_no_more_than_there_is(
    shared_url: str, deed: crew.Deed, room: int
) -> None:
    assert sum(crew.together(crew.repeat, deed, shared_url)) == room


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_a_hit_that_redis_is_sent_again_counts_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the library does when the response to the first is lost: it has the same entry.
    monkeypatch.setattr("calls_mcp.storage.interface.secrets.token_urlsafe", str)
    assert await hits(storage, [MINUTE], 3) == [""] * 3


@pytest.mark.process
async def test_processes_that_find_one_limit_exhausted_take_nothing_from_the_other(
    shared_url: str, options: StorageOptions
) -> None:
    crew.together(crew.repeat, crew.hit, shared_url)
    roomy = replace(crew.ROOMY, amount=crew.NARROW.amount + 1)
    async with open_storage(shared_url, options) as storage:
        assert await hits(storage, [roomy], 2) == ["", "roomy"]


@pytest.fixture
def rates(clock: ManualClock) -> RateLimiter:
    return RateLimiter(None, clock)


async def test_a_process_counts_rates_as_a_store_does(
    rates: RateLimiter, clock: ManualClock
) -> None:
    assert await rates.hit([MINUTE, OF_ALL]) is None
    clock.advance(20)
    assert await rates.hit([MINUTE, OF_ALL]) is None
    assert await rates.hit([OF_ALL, MINUTE]) == LimitExceeded("calls_per_minute", 40)
    assert await rates.hit([OF_ALL]) is None
    assert await rates.hit([NEVER]) == LimitExceeded("never", 60)
    clock.advance(40)
    assert await rates.hit([MINUTE]) is None


async def test_rates_that_do_not_count_any_more_take_no_memory(
    rates: RateLimiter, clock: ManualClock
) -> None:
    limit = Limit("requests", amount=1_000_000, seconds=60, key="me")
    await rates.hit([limit])
    tracemalloc.start()
    try:
        for number in range(5000):
            clock.advance(1)
            await rates.hit([limit, replace(limit, key=str(number))])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 150_000  # 120 windows, and not 5000


async def test_rates_are_shared_until_the_store_is_away(
    own_redis: RedisServer, clock: ManualClock
) -> None:
    async with open_storage(own_redis.url, StorageOptions(clock=clock)) as storage:
        one, other = RateLimiter(storage, clock), RateLimiter(storage, clock)
        assert [await each.hit([MINUTE]) for each in (one, other)] == [None, None]
        assert await one.hit([MINUTE]) == LimitExceeded("calls_per_minute", 60)
        own_redis.stop()
        assert [await each.hit([MINUTE]) for each in (one, one, other)] == [None] * 3
        assert await one.hit([MINUTE]) == LimitExceeded("calls_per_minute", 60)
        own_redis.start()
        clock.advance(10)
        assert [await each.hit([MINUTE]) for each in (one, other, one)] == [
            None,
            None,
            LimitExceeded("calls_per_minute", 60),
        ]


async def test_what_the_first_edition_noted_and_reserved_in_redis_still_counts(
    redis_url: str, options: StorageOptions, clock: ManualClock
) -> None:
    client: Any = redis.Redis.from_url(redis_url)  # pyright: ignore[reportUnknownMemberType]
    note = {"writer": "it", "text": "sent", "until": clock() + 60}
    client.hset("calls-mcp:noted/sent:AC0:+1", mapping=note)
    client.zadd("calls-mcp:entered/in_flight/AC0", {"placed": clock() + 60})
    client.close()
    in_flight = Limit("in_flight", 1, 60, "AC0")
    async with open_storage(redis_url, options) as storage:
        assert await storage.get_with_ttl("sent:AC0:+1") == ("sent", 60)
        assert await storage.set_if_absent("sent:AC0:+1", 60) is None
        assert await storage.reserve([in_flight]) == LimitExceeded("in_flight", 60)
        assert await storage.reservations(in_flight) == ["placed"]
