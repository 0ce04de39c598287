"""Budgets of talk time."""

from dataclasses import replace

import anyio
import pytest

from calls_mcp.emulator import ManualClock
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.rate_limits import Limit
from calls_mcp.storage.records import TalkTime

pytestmark = pytest.mark.anyio

DAY = 86_400
HOUR = Limit("minutes_per_day", 3600, DAY, "AC")
MINE = Limit("principal.minutes_per_day", 600, DAY, "AC/me")


def talk(clock: ManualClock, entry: str, least: float, most: float = 0, times: int = 1) -> TalkTime:
    return TalkTime(entry, clock(), least, most or least, times)


async def test_calls_fit_in_all_their_budgets_or_are_not_counted(
    storage: Storage, clock: ManualClock
) -> None:
    assert await storage.spend([HOUR, MINE], talk(clock, "a", 400)) is None
    assert await storage.spend([HOUR, MINE], talk(clock, "b", 300)) == MINE
    assert await storage.spend([HOUR, MINE], talk(clock, "", 200)) is None
    assert await storage.spend([HOUR, MINE], talk(clock, "", 201)) == MINE
    assert await storage.spend([HOUR], talk(clock, "c", 3200)) is None
    assert await storage.spend([HOUR], talk(clock, "d", 1)) == HOUR
    assert [each.entry for each in await storage.spent(HOUR)] == ["a", "c"]
    assert [each.entry for each in await storage.spent(MINE)] == ["a"]
    clock.advance(DAY)
    assert await storage.spent(HOUR) == []
    assert await storage.spend([HOUR, MINE], talk(clock, "e", 600)) is None


async def test_calls_that_may_go_on_take_more_until_they_are_corrected(
    storage: Storage, clock: ManualClock
) -> None:
    open_call = talk(clock, "a", 300, 1000, times=2)
    await storage.spend([HOUR], open_call)
    clock.advance(200)
    assert await storage.spend([HOUR], talk(clock, "", 3200)) is None
    assert await storage.spend([HOUR], talk(clock, "", 3201)) == HOUR
    clock.advance(4000)
    assert await storage.spend([HOUR], talk(clock, "", 2600)) is None
    assert await storage.spend([HOUR], talk(clock, "", 2601)) == HOUR
    ended = replace(open_call, least=10, most=10, call='["AC", "CA"]')
    await storage.correct([HOUR, MINE], ended)
    assert await storage.spent(HOUR) == [ended]
    assert await storage.spent(MINE) == []
    assert await storage.spend([HOUR], talk(clock, "", 3590)) is None


async def test_simultaneous_calls_do_not_exceed_the_budgets(
    storage: Storage, clock: ManualClock
) -> None:
    full: list[Limit | None] = []

    async def spend(number: int) -> None:
        full.append(await storage.spend([HOUR, MINE], talk(clock, f"{number}", 200)))

    async with anyio.create_task_group() as tasks:
        for number in range(9):
            tasks.start_soon(spend, number)
    assert full.count(None) == 3
    assert len(await storage.spent(HOUR)) == 3
