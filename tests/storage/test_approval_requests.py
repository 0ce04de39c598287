import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import Any

import anyio
import pytest
import redis

from calls_mcp.emulator import ManualClock
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import (
    ApprovalRequest,
    Binding,
    OperatorDecision,
    PendingPage,
    Position,
    StorageOptions,
)
from calls_mcp.tools.outcome import Preview, Risk

pytestmark = pytest.mark.anyio

TTL, MOST = 60, 3


def request(identifier: str, clock: ManualClock, principal: str = "ann") -> ApprovalRequest:
    now = clock()
    binding = Binding("create_call", "0123", principal)
    preview = Preview(
        f'Call {identifier}: "<b>\u202e"',
        '"ann"',
        ("A fact.",),
        ("It says it.",),
        (Risk("A", "b."),),
        arguments=(("to", '"c"'),),
    )
    return ApprovalRequest(
        identifier, binding, "place", preview, "probe 1", "confirm.place", now, now + TTL
    )


def approved(by: str, clock: ManualClock) -> OperatorDecision:
    return OperatorDecision(is_approval=True, by=by, at=clock())


async def test_an_added_request_is_found(storage: Storage, clock: ManualClock) -> None:
    one = request("one", clock)
    assert await storage.add_request(one, MOST)
    assert await storage.find_request("one") == one
    assert await storage.find_request("two") is None


async def test_a_short_lived_request_does_not_shorten_the_life_of_others(
    redis_url: str, options: StorageOptions, clock: ManualClock
) -> None:
    async with open_storage(redis_url, options) as storage:
        await storage.add_request(request("one", clock), MOST)
        soon = replace(request("two", clock), expires_at=clock() + 1)
        client: Any = redis.Redis.from_url(redis_url)  # pyright: ignore[reportUnknownMemberType]
        before: dict[bytes, int] = {key: client.pttl(key) for key in client.keys("calls-mcp:*")}
        await storage.add_request(soon, MOST)
        after: dict[bytes, int] = {key: client.pttl(key) for key in before}
        client.close()
    assert all(after[key] > before[key] - 30_000 for key in before)


async def test_the_first_decision_counts_for_all(storage: Storage, clock: ManualClock) -> None:
    one = request("one", clock)
    denied = OperatorDecision(is_approval=False, by="eve", at=clock(), reason="no")
    decisions = [approved("bob", clock), denied]
    await storage.add_request(one, MOST)
    told: list[OperatorDecision | None] = []

    async def decide(decision: OperatorDecision) -> None:
        told.append(await storage.decide_request("one", decision))

    async with anyio.create_task_group() as tasks:
        for decision in decisions * 5:
            tasks.start_soon(decide, decision)
    assert len(told) == 10
    assert {*told} < {*decisions}
    assert len({*told}) == 1
    decided = replace(one, decision=told[0])
    assert await storage.find_request("one") == decided
    clock.advance(TTL)
    assert await storage.decide_request("one", approved("ann", clock)) == told[0]
    assert not decided.has_expired(clock())


async def test_an_expired_or_missing_request_cannot_be_decided(
    storage: Storage, clock: ManualClock
) -> None:
    await storage.add_request(request("one", clock), MOST)
    assert await storage.decide_request("two", approved("bob", clock)) is None
    clock.advance(TTL)
    assert await storage.decide_request("one", approved("bob", clock)) is None
    assert request("one", clock).has_expired(clock() + TTL)


async def test_pending_requests_are_limited_by_principal(
    storage: Storage, clock: ManualClock
) -> None:
    found = [await storage.add_request(request(str(number), clock), MOST) for number in range(5)]
    assert found == [True] * MOST + [False] * 2
    assert await storage.add_request(request("another's", clock, "bob"), MOST)
    await storage.decide_request("0", approved("bob", clock))
    assert await storage.add_request(request("5", clock), MOST)
    assert not await storage.add_request(request("6", clock), MOST)
    clock.advance(TTL)
    assert await storage.add_request(request("7", clock), MOST)


async def test_the_newest_requests_are_listed_first_and_old_ones_deleted(
    storage: Storage, clock: ManualClock, options: StorageOptions
) -> None:
    for number in range(4):
        await storage.add_request(request(str(number), clock, f"of {number}"), MOST)
        clock.advance(1)
    decision = await storage.decide_request("3", approved("bob", clock))
    listed = await storage.newest_requests(3)
    assert [each.identifier for each in listed] == ["3", "2", "1"]
    assert [each.decision for each in listed] == [decision, None, None]
    clock.advance(TTL + options.retention)
    await storage.add_request(replace(request("4", clock), client=""), MOST)
    assert [each.identifier for each in await storage.newest_requests(9)] == ["4"]


def names(page: PendingPage) -> list[str]:
    return [each.identifier for each in page.requests]


async def add_some(storage: Storage, clock: ManualClock) -> None:
    """Add requests: the fifth is the oldest, and the others are pairs of the same age."""
    await storage.add_request(request("5", clock), 9)
    for pair in ("34", "12"):
        clock.advance(1)
        for name in pair:
            await storage.add_request(request(name, clock, f"of {name}"), 9)


async def test_pending_requests_are_paged_from_the_oldest(
    storage: Storage, clock: ManualClock
) -> None:
    assert await storage.pending_requests(2) == PendingPage([], 0)
    await add_some(storage, clock)
    first = await storage.pending_requests(2)
    second = await storage.pending_requests(2, first.last)
    third = await storage.pending_requests(2, second.last)
    assert [names(page) for page in (first, second, third)] == [["5", "3"], ["4", "1"], ["2"]]
    assert {page.count for page in (first, second, third)} == {5}
    assert third.last is None
    assert (await storage.pending_requests(5)).last is None


async def test_deciding_a_request_does_not_move_the_next_page(
    storage: Storage, clock: ManualClock
) -> None:
    await add_some(storage, clock)
    last = (await storage.pending_requests(3)).last
    assert last == Position(clock() - 1, "4")
    for decided in "54":
        await storage.decide_request(decided, approved("bob", clock))
    rest = await storage.pending_requests(3, last)
    assert (names(rest), rest.count) == (["1", "2"], 3)
    assert names(await storage.pending_requests(9)) == ["3", "1", "2"]
    assert names(await storage.pending_requests(9, Position(clock() - 1, "3"))) == ["1", "2"]
    assert await storage.pending_requests(9, Position(clock(), "2")) == PendingPage([], 3)


async def test_an_expired_request_is_not_pending(storage: Storage, clock: ManualClock) -> None:
    await storage.add_request(replace(request("long", clock), expires_at=clock() + 2 * TTL), MOST)
    await storage.add_request(request("short", clock), MOST)
    clock.advance(TTL)
    assert names(await storage.pending_requests(9)) == ["long"]
    clock.advance(TTL)
    assert await storage.pending_requests(9) == PendingPage([], 0)


async def test_a_long_lived_request_stays_pending_when_later_ones_are_deleted(
    storage: Storage, clock: ManualClock, options: StorageOptions
) -> None:
    long = 10 * (TTL + options.retention)
    await storage.add_request(replace(request("long", clock), expires_at=clock() + long), MOST)
    clock.advance(TTL + options.retention)
    await storage.add_request(request("short", clock), MOST)
    clock.advance(TTL + options.retention)
    assert names(await storage.pending_requests(9)) == ["long"]


@pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)
async def test_a_request_is_kept_while_its_approval_can_be_used(
    storage: Storage, clock: ManualClock, options: StorageOptions
) -> None:
    long = 10 * options.retention
    await storage.add_request(replace(request("long", clock), expires_at=clock() + long), MOST)
    await storage.decide_request("long", approved("bob", clock))
    clock.advance(2 * long - 1)
    await storage.add_request(request("short", clock), MOST)
    assert await storage.find_request("long")
    clock.advance(1)
    await storage.add_request(request("another", clock), MOST)
    assert not await storage.find_request("long")


async def test_redis_keeps_a_request_while_its_approval_can_be_used(
    redis_url: str, options: StorageOptions, clock: ManualClock
) -> None:
    long = 10 * options.retention
    async with open_storage(redis_url, options) as storage:
        await storage.add_request(replace(request("long", clock), expires_at=clock() + long), MOST)
    client: Any = redis.Redis.from_url(redis_url)  # pyright: ignore[reportUnknownMemberType]
    with client:
        (key,) = client.keys("*long")
        lasts: int = client.pttl(key)  # in real time, which Redis goes by
    assert 2 * long - TTL < lasts / 1000 <= 2 * long


async def test_the_version_changes_when_the_pending_requests_change(
    storage: Storage, clock: ManualClock
) -> None:
    versions = [await storage.pending_version()]
    await storage.add_request(request("one", clock), MOST)
    versions.append(await storage.pending_version())
    await storage.decide_request("one", approved("bob", clock))
    await storage.add_request(replace(request("two", clock), asked_at=clock() - 5), MOST)
    versions.append(await storage.pending_version())  # as many, one of a slow clock
    await storage.decide_request("two", approved("bob", clock))
    await storage.decide_request("two", approved("bob", clock))
    await storage.add_request(request("three", clock), MOST)
    versions.append(await storage.pending_version())
    clock.advance(TTL)
    versions.append(await storage.pending_version())
    assert all(one != other for one, other in pairwise(versions))
    assert len({*versions[1:4]}) == 3
    assert await storage.pending_version() == versions[-1]


async def test_a_decision_written_by_a_newer_version_is_unknown(
    sqlite_url: str, options: StorageOptions, clock: ManualClock
) -> None:
    async with open_storage(sqlite_url, options) as storage:
        await storage.add_request(request("one", clock), MOST)
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as other, other:
            other.execute("UPDATE approval_requests SET decision = '{}'")
        assert await storage.decide_request("one", approved("bob", clock)) is None
        assert await storage.find_request("one") is None
