import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis

from calls_mcp.emulator import ManualClock
from calls_mcp.guard import Binding
from calls_mcp.store import Case, Docket, Filed, Keeping, Place, Queue, Ruling, open_store

pytestmark = pytest.mark.anyio

TTL, MOST = 60, 3


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """Of every kind of store that other processes see."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
async def docket(url: str, keeping: Keeping) -> AsyncGenerator[Docket]:
    async with open_store(url, keeping) as store:
        assert store.docket
        yield store.docket


def case(identifier: str, clock: ManualClock, principal: str = "ann") -> Case:
    now = clock()
    binding = Binding("create_call", "0123", principal)
    preview = f'Place a call {identifier}: "<b>\u202e".'
    return Case(identifier, binding, "place", preview, "probe 1", "confirm.place", now, now + TTL)


def approved(by: str, clock: ManualClock) -> Ruling:
    return Ruling(is_approval=True, by=by, at=clock())


async def test_a_case_is_found_as_it_was_filed(docket: Docket, clock: ManualClock) -> None:
    one = case("one", clock)
    assert await docket.file(one, MOST)
    assert await docket.find("one") == Filed(one)
    assert await docket.find("two") is None


async def test_a_case_that_lapses_soon_shortens_the_life_of_no_other(
    redis_url: str, keeping: Keeping, clock: ManualClock
) -> None:
    async with open_store(redis_url, keeping) as store:
        assert store.docket
        await store.docket.file(case("one", clock), MOST)
        soon = replace(case("two", clock), lapses_at=clock() + 1)
        client: Any = redis.Redis.from_url(redis_url)  # pyright: ignore[reportUnknownMemberType]
        before: dict[bytes, int] = {key: client.pttl(key) for key in client.keys("calls-mcp:*")}
        await store.docket.file(soon, MOST)
        after: dict[bytes, int] = {key: client.pttl(key) for key in before}
        client.close()
    assert all(after[key] > before[key] - 30_000 for key in before)


async def test_the_first_ruling_stands_and_is_told_to_all(
    docket: Docket, clock: ManualClock
) -> None:
    one, rulings = (
        case("one", clock),
        [approved("bob", clock), Ruling(is_approval=False, by="eve", at=clock(), reason="no")],
    )
    await docket.file(one, MOST)
    told: list[Ruling | None] = []

    async def rule(ruling: Ruling) -> None:
        told.append(await docket.rule("one", ruling))

    async with anyio.create_task_group() as tasks:
        for ruling in rulings * 5:
            tasks.start_soon(rule, ruling)
    assert len(told) == 10
    assert {*told} < {*rulings}
    assert len({*told}) == 1
    assert await docket.find("one") == Filed(one, told[0])


async def test_what_has_lapsed_or_is_not_there_can_not_be_decided(
    docket: Docket, clock: ManualClock
) -> None:
    await docket.file(case("one", clock), MOST)
    assert await docket.rule("two", approved("bob", clock)) is None
    clock.advance(TTL)
    assert await docket.rule("one", approved("bob", clock)) is None
    filed = await docket.find("one")
    assert filed
    assert filed.has_lapsed(clock())


async def test_a_ruling_is_told_after_the_case_would_have_lapsed(
    docket: Docket, clock: ManualClock
) -> None:
    await docket.file(case("one", clock), MOST)
    ruling = await docket.rule("one", approved("bob", clock))
    clock.advance(TTL)
    assert await docket.rule("one", approved("eve", clock)) == ruling
    filed = await docket.find("one")
    assert filed
    assert not filed.has_lapsed(clock())


async def test_only_so_many_of_one_principal_wait(docket: Docket, clock: ManualClock) -> None:
    filed = [await docket.file(case(str(number), clock), MOST) for number in range(5)]
    assert filed == [True] * MOST + [False] * 2
    assert await docket.file(case("another's", clock, "bob"), MOST)
    await docket.rule("0", approved("bob", clock))
    assert await docket.file(case("5", clock), MOST)
    assert not await docket.file(case("6", clock), MOST)
    clock.advance(TTL)
    assert await docket.file(case("7", clock), MOST)


async def test_the_newest_are_listed_first_and_old_ones_are_forgotten(
    docket: Docket, clock: ManualClock, keeping: Keeping
) -> None:
    for number in range(4):
        await docket.file(case(str(number), clock, f"of {number}"), MOST)
        clock.advance(1)
    ruling = await docket.rule("3", approved("bob", clock))
    listed = await docket.listed(3)
    assert [filed.case.identifier for filed in listed] == ["3", "2", "1"]
    assert [filed.ruling for filed in listed] == [ruling, None, None]
    clock.advance(TTL + keeping.retention)
    await docket.file(replace(case("4", clock), client=""), MOST)
    assert [filed.case.identifier for filed in await docket.listed(9)] == ["4"]


def names(queue: Queue) -> list[str]:
    return [filed.case.identifier for filed in queue.cases]


async def file_some(docket: Docket, clock: ManualClock) -> None:
    """The fifth is the oldest; the others are asked for in pairs, each pair at once."""
    await docket.file(case("5", clock), 9)
    for pair in ("34", "12"):
        clock.advance(1)
        for name in pair:
            await docket.file(case(name, clock, f"of {name}"), 9)


async def test_what_waits_is_paged_from_the_oldest(docket: Docket, clock: ManualClock) -> None:
    assert await docket.waiting(2) == Queue([], 0)
    await file_some(docket, clock)
    first = await docket.waiting(2)
    second = await docket.waiting(2, first.last)
    third = await docket.waiting(2, second.last)
    assert [names(queue) for queue in (first, second, third)] == [["5", "3"], ["4", "1"], ["2"]]
    assert {queue.count for queue in (first, second, third)} == {5}
    assert third.last is None
    assert (await docket.waiting(5)).last is None


async def test_a_page_begins_where_it_did_when_the_case_before_it_is_decided(
    docket: Docket, clock: ManualClock
) -> None:
    await file_some(docket, clock)
    last = (await docket.waiting(3)).last
    assert last == Place(clock() - 1, "4")
    for decided in "54":
        await docket.rule(decided, approved("bob", clock))
    rest = await docket.waiting(3, last)
    assert (names(rest), rest.count) == (["1", "2"], 3)
    assert names(await docket.waiting(9)) == ["3", "1", "2"]
    assert names(await docket.waiting(9, Place(clock() - 1, "3"))) == ["1", "2"]
    assert await docket.waiting(9, Place(clock(), "2")) == Queue([], 3)


async def test_what_has_lapsed_does_not_wait(docket: Docket, clock: ManualClock) -> None:
    await docket.file(replace(case("long", clock), lapses_at=clock() + 2 * TTL), MOST)
    await docket.file(case("short", clock), MOST)
    clock.advance(TTL)
    assert names(await docket.waiting(9)) == ["long"]
    clock.advance(TTL)
    assert await docket.waiting(9) == Queue([], 0)


async def test_what_lasts_long_waits_on_when_what_came_later_is_forgotten(
    docket: Docket, clock: ManualClock, keeping: Keeping
) -> None:
    long = 10 * (TTL + keeping.retention)
    await docket.file(replace(case("long", clock), lapses_at=clock() + long), MOST)
    clock.advance(TTL + keeping.retention)
    await docket.file(case("short", clock), MOST)
    clock.advance(TTL + keeping.retention)
    assert names(await docket.waiting(9)) == ["long"]


async def test_the_mark_is_another_whenever_something_else_waits(
    docket: Docket, clock: ManualClock
) -> None:
    marks = [await docket.mark()]
    await docket.file(case("one", clock), MOST)
    marks.append(await docket.mark())
    await docket.rule("one", approved("bob", clock))
    await docket.file(replace(case("two", clock), asked_at=clock() - 5), MOST)
    marks.append(await docket.mark())  # as many, and an older one, as of a clock that is slow
    await docket.rule("two", approved("bob", clock))
    await docket.rule("two", approved("bob", clock))
    await docket.file(case("three", clock), MOST)
    marks.append(await docket.mark())
    clock.advance(TTL)
    marks.append(await docket.mark())
    assert all(one != other for one, other in pairwise(marks))
    assert len({*marks[1:4]}) == 3
    assert await docket.mark() == marks[-1]


async def test_a_file_from_before_there_were_pages_is_paged(
    sqlite_url: str, tmp_path: Path, clock: ManualClock, keeping: Keeping
) -> None:
    async with open_store(sqlite_url, keeping) as store:
        assert store.docket
        await file_some(store.docket, clock)
    with closing(sqlite3.connect(tmp_path / "state.db")) as file:
        file.execute("DROP INDEX cases_waiting")
        file.execute("DROP TABLE audit")
        file.execute("PRAGMA user_version = 2")
    async with open_store(sqlite_url, keeping) as store:
        assert store.docket
        assert names(await store.docket.waiting(2)) == ["5", "3"]
