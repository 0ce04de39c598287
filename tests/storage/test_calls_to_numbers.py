"""How often numbers were called."""

from collections.abc import Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.emulator import ManualClock
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.rate_limits import LimitExceeded
from calls_mcp.storage.records import (
    WEEK,
    CallsTo,
    Frequency,
    StorageOptions,
    entries_of_calls,
)
from calls_mcp.storage.sqlite import SqliteStorage

pytestmark = pytest.mark.anyio

HOUR, DAY, YEAR = 3600, 86_400, 365 * 86_400
ANY, NEW = Frequency(), CallsTo(0, is_known=False)


def called(in_a_day: int, last: str = "") -> CallsTo:
    return CallsTo(in_a_day, is_known=True, last=last)


async def seen(storage: Storage, *numbers: str) -> Sequence[CallsTo] | LimitExceeded:
    return await storage.calls_to(numbers, ANY)


async def test_calls_of_a_day_are_counted_and_the_number_is_known_for_a_year(
    storage: Storage, clock: ManualClock
) -> None:
    assert await seen(storage, "a", "b") == [NEW, NEW]
    assert await storage.calls_to(["a"], ANY, "1") == [NEW]
    clock.advance(DAY - 1)
    assert await storage.calls_to(["a", "b"], ANY, "2") == [called(1, "1"), NEW]
    assert await seen(storage, "a", "b") == [called(2, "2"), called(1, "2")]
    clock.advance(1)
    assert await seen(storage, "a") == [called(1, "2")]
    clock.advance(YEAR - 2)
    assert await seen(storage, "a", "b") == [called(0), called(0)]


async def test_a_number_is_not_called_more_often_than_allowed(
    storage: Storage, clock: ManualClock
) -> None:
    most = Frequency(per_day=2, per_week=3)
    assert await storage.calls_to(["a"], most, "1") == [NEW]
    clock.advance(HOUR)
    await storage.calls_to(["a"], most, "2")
    for entry in ("", "3"):
        exceeded = await storage.calls_to(["b", "a"], most, entry)
        assert exceeded == LimitExceeded("same_number_per_day", 23 * HOUR)
    assert await seen(storage, "b") == [NEW]
    clock.advance(23 * HOUR)
    assert await storage.calls_to(["a"], most, "4") == [called(1, "2")]
    clock.advance(DAY)
    exceeded = await storage.calls_to(["a"], most, "5")
    assert exceeded == LimitExceeded("same_number_per_week", 5 * DAY)
    assert await storage.calls_to(["a"], Frequency(per_week=2)) == LimitExceeded(
        "same_number_per_week", 5 * DAY + HOUR
    )


async def test_each_of_several_calls_to_a_number_at_once_counts(
    storage: Storage, clock: ManualClock
) -> None:
    most = Frequency(per_day=3)
    assert await storage.calls_to(["a", "b", "a"], most, "1") == [NEW, NEW]
    assert await seen(storage, "a", "b") == [called(2, "1.1"), called(1, "1")]
    clock.advance(HOUR)
    assert await storage.calls_to(["a"], most, "2") == [called(2, "1.1")]
    clock.advance(HOUR)
    exceeded = LimitExceeded("same_number_per_day", 22 * HOUR)
    assert await storage.calls_to(["a", "a"], most) == exceeded
    assert await storage.calls_to(["b", "b", "b"], most, "3") == exceeded
    never = LimitExceeded("same_number_per_day", DAY)
    assert await storage.calls_to(["c"] * 4, most, "4") == never
    await storage.remove_call(["a", "a", "b"], "1")
    assert await seen(storage, "a", "b", "c") == [called(1, "2"), NEW, NEW]


async def test_a_call_that_was_not_placed_is_forgotten(storage: Storage) -> None:
    await storage.calls_to(["a", "b"], ANY, "1")
    await storage.calls_to(["b"], ANY, "2")
    await storage.remove_call(["a", "b"], "1")
    assert await seen(storage, "a", "b") == [NEW, called(1, "2")]
    await storage.remove_call(["b"], "3")
    assert await seen(storage, "b") == [called(1, "2")]


async def test_a_number_called_long_ago_is_still_known_if_a_call_was_not_placed(
    storage: Storage, clock: ManualClock
) -> None:
    await storage.calls_to(["a"], ANY, "1")
    clock.advance(30 * DAY)
    await storage.calls_to(["a"], ANY, "2")
    await storage.remove_call(["a"], "2")
    assert await seen(storage, "a") == [called(0)]


async def test_simultaneous_calls_do_not_exceed_the_limit(storage: Storage) -> None:
    results: list[Sequence[CallsTo] | LimitExceeded] = []

    async def add(number: int) -> None:
        numbers = ["a", "b"] if number % 2 else ["a"]
        results.append(await storage.calls_to(numbers, Frequency(per_day=3), f"{number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(add, number)
    assert sum(isinstance(each, LimitExceeded) for each in results) == 9
    found = await seen(storage, "a")
    assert not isinstance(found, LimitExceeded)
    assert [each.in_a_day for each in found] == [3]


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_a_repeated_redis_command_finds_the_last_other_call(
    storage: Storage, clock: ManualClock
) -> None:
    await storage.calls_to(["a"], ANY, "1")
    clock.advance(1)
    for number in (1, 3):  # the second time, its own two calls are already counted
        assert await storage.calls_to(["a", "a"], ANY, "2") == [called(number, "1")]


def last_of_week(made: Sequence[tuple[float, str]], now: float) -> str:
    return max([(at, entry) for at, entry in made if now - at < WEEK], default=(0, ""))[1]


@given(
    calls=st.lists(
        st.tuples(
            st.lists(st.sampled_from("abc"), min_size=1, max_size=4),
            st.sampled_from([0, 1, HOUR, DAY - 1, DAY, 2 * DAY, 7 * DAY, YEAR]),
            st.booleans(),
        ),
        max_size=20,
    ),
    most=st.builds(Frequency, st.integers(0, 3), st.integers(0, 5)),
)
def test_the_counts_agree_with_a_list_of_all_calls(
    calls: list[tuple[list[str], float, bool]], most: Frequency
) -> None:
    async def compare() -> None:
        clock, made = ManualClock(), dict[str, list[tuple[float, str]]]()
        storage = SqliteStorage(None, StorageOptions(clock=clock))
        for entry, (numbers, pause, is_placed) in enumerate(calls):
            found = await storage.calls_to(numbers, most, f"{entry}")
            past = {each: [clock() - at for at, _ in made.get(each, [])] for each in numbers}
            is_too_often = any(
                amount and sum(age < seconds for age in ages) + numbers.count(each) > amount
                for each, ages in past.items()
                for _, amount, seconds in most.windows
            )
            assert isinstance(found, LimitExceeded) == is_too_often
            if not isinstance(found, LimitExceeded):
                assert found == [
                    CallsTo(
                        sum(age < DAY for age in past[each]),
                        any(age < YEAR for age in past[each]),
                        last_of_week(made.get(each, []), clock()),
                    )
                    for each in dict.fromkeys(numbers)
                ]
                if is_placed:
                    for number, entries in entries_of_calls(numbers, f"{entry}").items():
                        made.setdefault(number, []).extend((clock(), each) for each in entries)
                else:
                    await storage.remove_call(numbers, f"{entry}")
            clock.advance(pause)
        await storage.aclose()

    anyio.run(compare)
