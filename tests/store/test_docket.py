from collections.abc import AsyncGenerator
from dataclasses import replace

import anyio
import pytest

from calls_mcp.emulator import ManualClock
from calls_mcp.guard import Binding
from calls_mcp.store import Case, Docket, Filed, Keeping, Ruling, open_store

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
