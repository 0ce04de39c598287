import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import anyio
import pytest
import redis

from calls_mcp.emulator import ManualClock
from calls_mcp.guard import Binding
from calls_mcp.outcome import Outcome
from calls_mcp.store import Keeping, MemoryStore, Pending, Store, StoreUnavailable, Unrecorded
from calls_mcp.store import open_store as opened
from calls_mcp.store.counters import Limit

from . import crew
from .redis_server import RedisServer

pytestmark = pytest.mark.anyio

DONE = Outcome.model_validate(
    {"outcome": "done", "warnings": ["für ä"], "call": {"sid": "CA1", "live": True}}
)


@pytest.fixture
def pending(clock: ManualClock) -> Pending:
    return pending_of("tester", clock)


def pending_of(principal: str, clock: ManualClock) -> Pending:
    return Pending(Binding("create_call", "digest", principal), "queued", clock() + 300)


def kind_of(outcome: Outcome) -> str:
    return outcome.error_kind


async def kept(store: Store, *identifiers: str) -> list[str]:
    return [identifier for identifier in identifiers if await store.get(identifier)]


async def test_a_store_knows_its_kind_and_answers(store: Store, url: str) -> None:
    assert store.kind == url.partition(":")[0]
    await store.ping()


async def test_a_question_is_kept_as_it_was(store: Store, pending: Pending) -> None:
    await store.put("one", pending)
    assert await store.get("one") == pending
    assert await store.get("another") is None


async def test_what_the_operator_has_is_not_pushed_out_by_what_users_are_asked(
    store: Store, pending: Pending, keeping: Keeping
) -> None:
    await store.put("filed", replace(pending, is_filed=True))
    for number in range(keeping.each + 1):
        await store.put(f"{number}", pending)
    assert await kept(store, "filed", "0") == ["filed"]


async def test_only_one_of_many_claims_succeeds(store: Store, pending: Pending) -> None:
    await store.put("one", pending)
    assert [await store.claim("one") for _ in range(5)] == [True, False, False, False, False]


async def test_putting_a_question_again_does_not_free_it(store: Store, pending: Pending) -> None:
    await store.put("one", pending)
    await store.claim("one")
    await store.put("one", replace(pending, state="another"))
    assert await store.get("one") == pending
    assert not await store.claim("one")


async def test_what_is_not_kept_can_not_be_claimed(store: Store) -> None:
    assert not await store.claim("unknown")
    assert kind_of(await store.outcome("unknown")) == "outcome_unknown"


async def test_an_outcome_is_told_as_it_was_recorded(store: Store, pending: Pending) -> None:
    await store.put("one", pending)
    await store.claim("one")
    await store.settle("one", DONE)
    assert await store.outcome("one") == DONE


async def test_the_first_outcome_is_the_one(store: Store, pending: Pending) -> None:
    await store.put("one", pending)
    await store.claim("one")
    await store.settle("one", DONE)
    await store.settle("one", Outcome(outcome="declined"))
    assert await store.outcome("one") == DONE


async def test_settling_what_is_not_kept_does_nothing(store: Store) -> None:
    await store.settle("unknown", DONE)
    assert await store.get("unknown") is None


async def test_all_who_wait_get_the_outcome_when_it_is_settled(
    url: str, keeping: Keeping, pending: Pending
) -> None:
    outcomes: list[Outcome] = []
    async with opened(url, replace(keeping, patience=60)) as store:
        await store.put("one", pending)
        await store.claim("one")

        async def wait() -> None:
            outcomes.append(await store.outcome("one"))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert outcomes == []
            await store.settle("one", DONE)
    assert outcomes == [DONE] * 20


async def test_waiting_ends_when_patience_does(store: Store, pending: Pending) -> None:
    await store.put("one", pending)
    await store.claim("one")
    outcome = await store.outcome("one")
    assert kind_of(outcome) == "outcome_unknown"
    assert "Nothing new was sent" in str(outcome.error)


async def test_nobody_waits_for_a_claim_that_is_long_past(
    url: str, keeping: Keeping, pending: Pending, clock: ManualClock
) -> None:
    async with opened(url, replace(keeping, patience=3600)) as store:
        await store.put("one", pending)
        await store.claim("one")
        clock.advance(3600)
        assert kind_of(await store.outcome("one")) == "outcome_unknown"
        await store.settle("one", DONE)
        assert await store.outcome("one") == DONE


async def test_a_flood_of_questions_costs_only_those_who_make_it(
    store: Store, clock: ManualClock
) -> None:
    await store.put("theirs", pending_of("somebody else", clock))
    for number in range(5):
        await store.put(f"{number}", pending_of("flooder", clock))
    assert await kept(store, "theirs", "0", "1", "2", "3", "4") == ["theirs", "2", "3", "4"]


async def test_a_flood_of_questions_does_not_touch_what_was_claimed(
    store: Store, pending: Pending
) -> None:
    names = ["in flight", "settled", *"12345"]
    for name in names:
        await store.put(name, pending)
        if name in ("in flight", "settled"):
            await store.claim(name)
    await store.settle("settled", DONE)
    assert await kept(store, *names) == ["in flight", "settled", "3", "4", "5"]
    assert await store.outcome("settled") == DONE


@pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)
async def test_a_record_is_forgotten_some_time_after_it_has_lapsed(
    store: Store, pending: Pending, clock: ManualClock
) -> None:
    await store.put("old", pending)
    clock.advance(399)
    await store.put("new", pending_of("tester", clock))
    assert await kept(store, "old", "new") == ["old", "new"]
    clock.advance(1)
    await store.put("newer", pending_of("tester", clock))
    assert await kept(store, "old", "new", "newer") == ["new", "newer"]


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_redis_is_told_when_to_forget_each_key(
    store: Store, pending: Pending, shared_redis: RedisServer
) -> None:
    limit = Limit("calls", amount=9, seconds=400, key="tester")
    await store.put("one", pending)
    await store.put("claimed", pending)
    await store.claim("claimed")
    await store.settle("claimed", DONE)
    await store.counters.hit([limit])
    await store.counters.enter([limit])
    await store.counters.note("+15005550205", 400)
    await store.counters.note("digest", 400, "why")
    client: Any = redis.Redis(port=shared_redis.port)
    with client:
        lasts: list[int] = [client.pttl(key) for key in client.scan_iter()]
    assert len(lasts) == 8
    assert all(300_000 < milliseconds <= 400_000 for milliseconds in lasts)


async def test_memory_is_bounded_and_the_greediest_pays(clock: ManualClock) -> None:
    store = MemoryStore(Keeping(clock=clock), capacity=4)
    await store.put("in flight", pending_of("greedy", clock))
    await store.claim("in flight")
    await store.put("modest", pending_of("modest", clock))
    for name in ("oldest", "newer", "newest"):
        await store.put(name, pending_of("greedy", clock))
    names = ("in flight", "modest", "oldest", "newer", "newest")
    assert await kept(store, *names) == ["in flight", "modest", "newer", "newest"]


async def test_memory_keeps_all_that_is_in_flight(clock: ManualClock) -> None:
    store = MemoryStore(Keeping(clock=clock), capacity=1)
    for name in ("one", "two"):
        await store.put(name, pending_of("tester", clock))
        await store.claim(name)
    assert await kept(store, "one", "two") == ["one", "two"]


async def test_a_record_survives_closing_and_opening_again(
    shared_url: str, keeping: Keeping, pending: Pending
) -> None:
    async with opened(shared_url, keeping) as store:
        await store.put("unused", pending)
        await store.put("used", pending)
        await store.claim("used")
        await store.settle("used", DONE)
    async with opened(shared_url, keeping) as store:
        assert await store.get("unused") == pending
        assert await store.claim("unused")
        assert not await store.claim("used")
        assert await store.outcome("used") == DONE


async def test_of_a_hundred_claims_from_four_processes_one_wins_and_all_see_its_outcome(
    shared_url: str, keeping: Keeping, pending: Pending
) -> None:
    async with opened(shared_url, keeping) as store:
        await store.put(crew.IDENTIFIER, pending)
    results = crew.together("use", shared_url)
    assert len(results) == 100
    assert sum(result["won"] for result in results) == 1
    assert results[0]["outcome"]["outcome"] == "done"
    assert all(result["outcome"] == results[0]["outcome"] for result in results)


async def test_who_waits_in_one_process_is_woken_by_another(
    shared_url: str, keeping: Keeping, pending: Pending
) -> None:
    outcomes: list[Outcome] = []
    async with opened(shared_url, replace(keeping, patience=60)) as store:
        await store.put(crew.IDENTIFIER, pending)
        (claimant,) = crew.start("hold", shared_url, size=1)
        with claimant:
            assert crew.heard(claimant) is True

            async def wait() -> None:
                outcomes.append(await store.outcome(crew.IDENTIFIER))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                assert outcomes == []
                crew.tell(claimant, "enough")
    assert outcomes == [Outcome(outcome="done")]


async def test_a_claimant_that_was_killed_leaves_the_others_an_unknown_outcome(
    shared_url: str, keeping: Keeping, pending: Pending
) -> None:
    async with opened(shared_url, keeping) as store:
        await store.put(crew.IDENTIFIER, pending)
        (claimant,) = crew.start("hold", shared_url, size=1)
        with claimant:
            assert crew.heard(claimant) is True
            claimant.kill()
        assert not await store.claim(crew.IDENTIFIER)
        assert kind_of(await store.outcome(crew.IDENTIFIER)) == "outcome_unknown"
        await store.put("another", pending)
        assert await store.claim("another")


async def test_a_store_works_again_when_redis_is_back(
    own_redis: RedisServer, keeping: Keeping, pending: Pending
) -> None:
    async with opened(own_redis.url, keeping) as store:
        await store.put("one", pending)
        own_redis.stop()
        await assert_unavailable(store, pending)
        own_redis.start()
        await store.ping()
        await store.put("two", pending)
        assert await store.claim("two")


async def test_redis_may_be_opened_before_it_runs(own_redis: RedisServer, keeping: Keeping) -> None:
    own_redis.stop()
    async with opened(own_redis.url, keeping) as store:
        with pytest.raises(StoreUnavailable):
            await store.ping()


async def test_a_store_works_again_when_its_file_does(
    sqlite_url: str, keeping: Keeping, pending: Pending
) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    async with opened(sqlite_url, replace(keeping, busy=0.01)) as store:
        await store.put("one", pending)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("ALTER TABLE confirmations RENAME TO away")
            other.execute("ALTER TABLE marks RENAME TO far_away")
            other.execute("BEGIN IMMEDIATE")
            await assert_unavailable(store, pending)
            other.execute("ROLLBACK")
            other.execute("ALTER TABLE far_away RENAME TO marks")
            other.execute("ALTER TABLE away RENAME TO confirmations")
        await store.ping()
        assert await store.claim("one")


async def assert_unavailable(store: Store, pending: Pending) -> None:
    limits = [Limit("calls", amount=1, seconds=60, key="tester")]
    counters = store.counters
    for unsent in (
        store.ping,
        lambda: store.put("another", pending),
        lambda: store.get("one"),
        lambda: store.claim("one"),
        lambda: store.outcome("one"),
        lambda: counters.hit(limits),
        lambda: counters.enter(limits),
        lambda: counters.note("+15005550205", 60),
        lambda: counters.noted("+15005550205"),
        lambda: counters.inside(limits[0]),
    ):
        with pytest.raises(StoreUnavailable, match="Nothing was sent: the state store") as caught:
            await unsent()
        assert caught.value.failure().kind == "store_unavailable"
        assert caught.value.retryable
    for already_sent in (
        lambda: store.settle("one", DONE),
        lambda: counters.leave(limits, "entry"),
        lambda: counters.forget("+15005550205", "note"),
    ):
        with pytest.raises(Unrecorded, match="could not be recorded") as caught:
            await already_sent()
        assert not caught.value.retryable


async def test_a_question_written_by_another_version_is_not_known_any_more(
    sqlite_url: str, keeping: Keeping, pending: Pending
) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    async with opened(sqlite_url, keeping) as store:
        await store.put("one", pending)
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE confirmations SET pending = '{}'")
        assert await store.get("one") is None


async def test_being_cancelled_while_waiting_harms_nobody(
    url: str, keeping: Keeping, pending: Pending
) -> None:
    async with opened(url, replace(keeping, patience=60)) as store:
        await store.put("one", pending)
        await store.claim("one")
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(store.outcome, "one")
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await store.settle("one", DONE)
        assert await store.outcome("one") == DONE
