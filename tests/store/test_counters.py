import tracemalloc
from collections.abc import Sequence

import pytest
from limits import RateLimitItemPerSecond
from limits.aio.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from calls_mcp.emulator import ManualClock
from calls_mcp.store import Keeping, Store, open_store
from calls_mcp.store.counters import Counters, Exhausted, Limit

from . import crew

pytestmark = pytest.mark.anyio

CALLEE = "+15005550205"
MINUTE = Limit("calls_per_minute", amount=2, seconds=60, key="me")
HOUR = Limit("calls_per_hour", amount=3, seconds=3600, key="me")
OF_ALL = Limit("calls_per_minute", amount=3, seconds=60, key="all")
NEVER = Limit("never", amount=0, seconds=60, key="me")


@pytest.fixture
def counters(store: Store) -> Counters:
    return store.counters


async def hits(counters: Counters, limits: Sequence[Limit], times: int) -> list[str]:
    """Names of what was exhausted, or "", for one hit after the other."""
    results = [await counters.hit(limits) for _ in range(times)]
    return [result.name if result else "" for result in results]


async def left(counters: Counters, key: str) -> float | None:
    """For how many more seconds a key is noted."""
    noted = await counters.noted(key)
    return noted and noted[1]


async def entered(counters: Counters, *limits: Limit) -> str:
    entry = await counters.enter(limits)
    assert isinstance(entry, str)
    return entry


async def test_a_limit_gives_as_much_as_it_has(counters: Counters) -> None:
    assert await hits(counters, [MINUTE], 4) == ["", "", "calls_per_minute", "calls_per_minute"]


async def test_no_limits_limit_nothing(counters: Counters) -> None:
    assert await hits(counters, [], 3) == ["", "", ""]


async def test_a_limit_of_nothing_gives_nothing(counters: Counters) -> None:
    assert await counters.hit([NEVER]) == Exhausted("never", 60)
    assert await counters.enter([NEVER]) == Exhausted("never", 60)


async def test_room_comes_back_when_the_oldest_has_left_the_window(
    counters: Counters, clock: ManualClock
) -> None:
    await counters.hit([MINUTE])
    clock.advance(20)
    await counters.hit([MINUTE])
    clock.advance(20)
    exhausted = await counters.hit([MINUTE])
    assert exhausted == Exhausted("calls_per_minute", 20)
    clock.advance(19)
    assert await counters.hit([MINUTE]) == Exhausted("calls_per_minute", 1)
    clock.advance(1)
    assert await hits(counters, [MINUTE], 2) == ["", "calls_per_minute"]


async def test_keys_and_names_are_counted_apart(counters: Counters) -> None:
    await hits(counters, [MINUTE], 2)
    assert await hits(counters, [OF_ALL], 1) == [""]
    assert await hits(counters, [HOUR], 1) == [""]


async def test_nothing_is_taken_when_one_of_several_is_exhausted(
    counters: Counters, clock: ManualClock
) -> None:
    assert await hits(counters, [MINUTE, HOUR, OF_ALL], 2) == ["", ""]
    assert await hits(counters, [OF_ALL, MINUTE], 9) == ["calls_per_minute"] * 9
    assert await hits(counters, [OF_ALL], 2) == ["", "calls_per_minute"]
    clock.advance(60)
    assert await hits(counters, [MINUTE, HOUR], 3) == ["", "calls_per_hour", "calls_per_hour"]
    assert await hits(counters, [MINUTE], 2) == ["", "calls_per_minute"]


async def test_what_limits_itself_takes_and_sees_is_the_same(counters: Counters) -> None:
    limiter = MovingWindowRateLimiter(counters.windows)
    item = RateLimitItemPerSecond(MINUTE.amount, MINUTE.seconds, MINUTE.name)
    await counters.hit([MINUTE])
    assert await limiter.test(item, MINUTE.key)
    assert not await limiter.hit(item, MINUTE.key, cost=2)
    assert not await limiter.hit(item, MINUTE.key, cost=3)
    assert await limiter.hit(item, MINUTE.key)
    assert not await limiter.test(item, MINUTE.key)
    assert await hits(counters, [MINUTE], 1) == ["calls_per_minute"]


async def test_limits_can_look_after_its_storage(counters: Counters) -> None:
    limiter = MovingWindowRateLimiter(counters.windows)
    item = RateLimitItemPerSecond(MINUTE.amount, MINUTE.seconds, MINUTE.name)
    assert await counters.windows.check()
    await hits(counters, [MINUTE], 2)
    await limiter.clear(item, MINUTE.key)
    assert await hits(counters, [MINUTE], 2) == ["", ""]
    await counters.windows.reset()
    assert await hits(counters, [MINUTE], 2) == ["", ""]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_sqlite_offers_moving_windows_only(counters: Counters) -> None:
    limiter = FixedWindowRateLimiter(counters.windows)
    item = RateLimitItemPerSecond(1)
    for attempt in (limiter.hit, limiter.test):
        with pytest.raises(NotImplementedError):
            await attempt(item)
    with pytest.raises(NotImplementedError):
        await counters.windows.get_expiry("any")


async def test_the_second_note_of_a_number_is_told_so_until_the_first_lapses(
    counters: Counters, clock: ManualClock
) -> None:
    assert await left(counters, CALLEE) is None
    assert await counters.note(CALLEE, 60)
    clock.advance(59)
    assert not await counters.note(CALLEE, 60)
    assert await left(counters, CALLEE) == 1
    assert await left(counters, "+15005550206") is None
    clock.advance(1)
    assert await left(counters, CALLEE) is None
    assert await counters.note(CALLEE, 60)


async def test_a_note_is_forgotten_by_whoever_made_it_once_and_by_nobody_else(
    counters: Counters,
) -> None:
    first = await counters.note(CALLEE, 60)
    assert first is not None
    assert not await counters.forget(CALLEE, "another")
    assert await left(counters, CALLEE) == 60
    assert await counters.forget(CALLEE, first)
    assert await left(counters, CALLEE) is None
    assert not await counters.forget(CALLEE, first)


async def test_those_inside_are_told_in_the_order_in_which_they_lapse(
    counters: Counters, clock: ManualClock
) -> None:
    assert [*await counters.inside(HOUR)] == []
    first = await entered(counters, HOUR)
    clock.advance(1)
    entries = [first, await entered(counters, HOUR)]
    assert [*await counters.inside(HOUR)] == entries
    await counters.leave([HOUR], first)
    assert [*await counters.inside(HOUR)] == entries[1:]
    clock.advance(3600)
    assert [*await counters.inside(HOUR)] == []


async def test_a_note_has_the_text_that_is_given(counters: Counters, clock: ManualClock) -> None:
    text = "its outcome is unknown: ü \n 'x'"
    assert await counters.note("digest", 60, text) == text
    clock.advance(30)
    assert await counters.note("digest", 60, "again") is None
    assert await counters.noted("digest") == (text, 30)
    clock.advance(30)
    assert await counters.noted("digest") is None
    assert not await counters.forget("digest", text)
    assert await counters.note("digest", 60, "again") == "again"


async def test_only_so_many_are_in_at_once(counters: Counters) -> None:
    first = await entered(counters, MINUTE)
    await entered(counters, MINUTE)
    assert await counters.enter([MINUTE]) == Exhausted("calls_per_minute", 60)
    await counters.leave([MINUTE], first)
    assert isinstance(await counters.enter([MINUTE]), str)
    assert isinstance(await counters.enter([MINUTE]), Exhausted)


async def test_leaving_twice_makes_room_once(counters: Counters) -> None:
    first = await entered(counters, MINUTE)
    await entered(counters, MINUTE)
    await counters.leave([MINUTE], first)
    await counters.leave([MINUTE], first)
    await entered(counters, MINUTE)
    assert isinstance(await counters.enter([MINUTE]), Exhausted)


async def test_whoever_died_inside_is_out_when_their_lease_ends(
    counters: Counters, clock: ManualClock
) -> None:
    await entered(counters, MINUTE)
    clock.advance(20)
    await entered(counters, MINUTE)
    assert await counters.enter([MINUTE]) == Exhausted("calls_per_minute", 40)
    clock.advance(40)
    await entered(counters, MINUTE)
    assert await counters.enter([MINUTE]) == Exhausted("calls_per_minute", 20)


async def test_nobody_enters_anywhere_when_one_place_is_full(counters: Counters) -> None:
    entries = [await entered(counters, OF_ALL, MINUTE) for _ in range(2)]
    assert [await counters.enter([OF_ALL, MINUTE]) for _ in range(9)] == [
        Exhausted("calls_per_minute", 60)
    ] * 9
    await entered(counters, OF_ALL)
    assert isinstance(await counters.enter([OF_ALL]), Exhausted)
    await counters.leave([OF_ALL, MINUTE], entries[0])
    await entered(counters, OF_ALL, MINUTE)


async def test_being_in_and_having_been_are_counted_apart(counters: Counters) -> None:
    await hits(counters, [MINUTE], 2)
    await entered(counters, MINUTE)


@pytest.mark.parametrize(("deed", "room"), [("hit", 10), ("enter", 10), ("note", 1)])
def test_four_processes_at_once_get_no_more_than_there_is(
    shared_url: str, deed: str, room: int
) -> None:
    results = crew.together(deed, shared_url)
    assert len(results) == 100
    assert sum(results) == room


async def test_processes_that_find_one_limit_exhausted_take_nothing_from_the_other(
    shared_url: str, keeping: Keeping
) -> None:
    crew.together("hit", shared_url)
    roomy = RateLimitItemPerSecond(crew.ROOMY.amount, crew.ROOMY.seconds, crew.ROOMY.name)
    async with open_store(shared_url, keeping) as store:
        limiter = MovingWindowRateLimiter(store.counters.windows)
        window = await limiter.get_window_stats(roomy, crew.ROOMY.key)
    assert window.remaining == crew.ROOMY.amount - crew.NARROW.amount


async def test_what_does_not_count_any_more_takes_no_memory(
    memory_url: str, clock: ManualClock
) -> None:
    limit = Limit("requests", amount=1_000_000, seconds=60, key="me")
    async with open_store(memory_url, Keeping(clock=clock)) as store:
        await store.counters.hit([limit])
        tracemalloc.start()
        try:
            for _ in range(5000):
                clock.advance(1)
                await store.counters.hit([limit])
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept < 5000 * 8  # less than a pointer for each of them
