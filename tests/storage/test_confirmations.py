import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import anyio
import pytest
import redis

from calls_mcp.emulator import ManualClock
from calls_mcp.errors import OutcomeNotStored, StoreUnavailable
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.rate_limits import Limit
from calls_mcp.storage.records import Binding, PendingConfirmation, StorageOptions
from calls_mcp.storage.sqlite import SqliteStorage
from calls_mcp.tools.outcome import Outcome

from .redis_server import RedisServer

pytestmark = pytest.mark.anyio

DONE = Outcome.model_validate(
    {"outcome": "done", "warnings": ["für ä"], "call": {"sid": "CA1", "live": True}}
)
NEWER = '{"outcome": "something else"}'


@pytest.fixture
def pending(clock: ManualClock) -> PendingConfirmation:
    return pending_of("tester", clock)


def pending_of(principal: str, clock: ManualClock) -> PendingConfirmation:
    return PendingConfirmation(Binding("create_call", "digest", principal), "queued", clock() + 300)


async def kept(storage: Storage, *identifiers: str) -> list[str]:
    return [identifier for identifier in identifiers if await storage.find_confirmation(identifier)]


async def test_an_added_confirmation_is_found(
    storage: Storage, pending: PendingConfirmation
) -> None:
    await storage.add_confirmation("one", pending)
    assert await storage.find_confirmation("one") == pending
    assert await storage.find_confirmation("another") is None


async def test_only_one_of_many_claims_succeeds(
    storage: Storage, pending: PendingConfirmation
) -> None:
    await storage.add_confirmation("one", pending)
    claims = [await storage.claim_confirmation("one") for _ in range(5)]
    assert claims == [True] + [False] * 4
    await storage.add_confirmation(
        "one", replace(pending, state="another")
    )  # which does not free it
    assert await storage.find_confirmation("one") == pending
    assert not await storage.claim_confirmation("one")


async def test_a_missing_confirmation_cannot_be_claimed_or_get_an_outcome(
    storage: Storage,
) -> None:
    assert not await storage.claim_confirmation("unknown")
    await storage.record_outcome("unknown", DONE)
    assert await storage.find_confirmation("unknown") is None
    assert (await storage.wait_for_outcome("unknown")).error_kind == "outcome_unknown"


async def test_the_first_outcome_counts(storage: Storage, pending: PendingConfirmation) -> None:
    await storage.add_confirmation("one", pending)
    await storage.claim_confirmation("one")
    await storage.record_outcome("one", DONE)
    await storage.record_outcome("one", Outcome(outcome="declined"))
    assert await storage.wait_for_outcome("one") == DONE


async def test_all_waiters_get_the_outcome_when_it_is_recorded(
    url: str, options: StorageOptions, pending: PendingConfirmation
) -> None:
    outcomes: list[Outcome] = []
    patient = replace(options, outcome_timeout=60)
    async with open_storage(url, patient) as storage, open_storage(url, patient) as another:
        await storage.add_confirmation("one", pending)
        await storage.claim_confirmation("one")

        async def wait() -> None:
            outcomes.append(await storage.wait_for_outcome("one"))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert outcomes == []
            await (another if another.is_shared else storage).record_outcome("one", DONE)
    assert outcomes == [DONE] * 20


async def test_waiting_for_an_outcome_ends_at_its_timeout(
    storage: Storage, pending: PendingConfirmation
) -> None:
    await storage.add_confirmation("one", pending)
    await storage.claim_confirmation("one")
    outcome = await storage.wait_for_outcome("one")
    assert outcome.error_kind == "outcome_unknown"
    assert "Nothing new was sent" in str(outcome.error)


async def test_an_old_claim_is_not_waited_for(
    url: str, options: StorageOptions, pending: PendingConfirmation, clock: ManualClock
) -> None:
    async with open_storage(url, replace(options, outcome_timeout=3600)) as storage:
        await storage.add_confirmation("one", pending)
        await storage.claim_confirmation("one")
        clock.advance(3600)
        assert (await storage.wait_for_outcome("one")).error_kind == "outcome_unknown"
        await storage.record_outcome("one", DONE)
        assert await storage.wait_for_outcome("one") == DONE


async def test_too_many_confirmations_remove_only_those_of_the_same_owner(
    storage: Storage, clock: ManualClock
) -> None:
    await storage.add_confirmation("theirs", pending_of("somebody else", clock))
    operators = replace(pending_of("flooder", clock), for_operator=True)
    await storage.add_confirmation("operator's", operators)
    for number in range(5):
        await storage.add_confirmation(f"{number}", pending_of("flooder", clock))
    names = ("theirs", "operator's", *"01234")
    assert await kept(storage, *names) == ["theirs", "operator's", "2", "3", "4"]


async def test_too_many_confirmations_do_not_remove_claimed_ones(
    storage: Storage, pending: PendingConfirmation
) -> None:
    names = ["in flight", "settled", *"12345"]
    for name in names:
        await storage.add_confirmation(name, pending)
        if name in ("in flight", "settled"):
            await storage.claim_confirmation(name)
    await storage.record_outcome("settled", DONE)
    assert await kept(storage, *names) == ["in flight", "settled", "3", "4", "5"]
    assert await storage.wait_for_outcome("settled") == DONE


@pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)
async def test_a_confirmation_is_deleted_some_time_after_it_has_expired(
    storage: Storage, pending: PendingConfirmation, clock: ManualClock
) -> None:
    await storage.add_confirmation("old", pending)
    clock.advance(399)
    await storage.add_confirmation("new", pending_of("tester", clock))
    assert await kept(storage, "old", "new") == ["old", "new"]
    clock.advance(1)
    await storage.add_confirmation("newer", pending_of("tester", clock))
    assert await kept(storage, "old", "new", "newer") == ["new", "newer"]


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_each_key_in_redis_expires(
    storage: Storage, pending: PendingConfirmation, shared_redis: RedisServer
) -> None:
    limit = Limit("calls", amount=9, seconds=400, key="tester")
    await storage.add_confirmation("one", pending)
    await storage.add_confirmation("claimed", pending)
    await storage.claim_confirmation("claimed")
    await storage.record_outcome("claimed", DONE)
    await storage.hit([limit])
    await storage.reserve([limit])
    await storage.set_if_absent("+15005550205", 400)
    await storage.set_if_absent("digest", 400, "why")
    client: Any = redis.Redis(port=shared_redis.port)
    with client:
        lasts: list[int] = [client.pttl(key) for key in client.scan_iter()]
    assert len(lasts) == 8
    assert all(300_000 < milliseconds <= 400_000 for milliseconds in lasts)


async def test_at_capacity_the_owner_with_the_most_confirmations_loses_one(
    clock: ManualClock,
) -> None:
    storage = SqliteStorage(None, StorageOptions(clock=clock, capacity=4))
    await storage.add_confirmation("in flight", pending_of("greedy", clock))
    await storage.claim_confirmation("in flight")
    await storage.add_confirmation("modest", pending_of("modest", clock))
    for name in ("oldest", "newer", "newest"):
        await storage.add_confirmation(name, pending_of("greedy", clock))
    names = ("in flight", "modest", "oldest", "newer", "newest")
    assert await kept(storage, *names) == ["in flight", "modest", "newer", "newest"]
    await storage.aclose()


async def test_confirmations_in_use_are_kept_beyond_the_capacity(clock: ManualClock) -> None:
    storage = SqliteStorage(None, StorageOptions(clock=clock, capacity=1))
    for name in ("one", "two"):
        await storage.add_confirmation(name, pending_of("tester", clock))
        await storage.claim_confirmation(name)
    assert await kept(storage, "one", "two") == ["one", "two"]
    await storage.aclose()


async def test_a_store_works_again_when_redis_is_back(
    own_redis: RedisServer, options: StorageOptions, pending: PendingConfirmation
) -> None:
    own_redis.stop()
    async with open_storage(own_redis.url, options) as storage:  # before Redis runs
        with pytest.raises(StoreUnavailable):
            await storage.ping()
        own_redis.start()
        await storage.add_confirmation("one", pending)
        own_redis.stop()
        await assert_unavailable(storage, pending)
        own_redis.start()
        await storage.ping()
        await storage.add_confirmation("two", pending)
        assert await storage.claim_confirmation("two")


async def test_a_store_works_again_when_its_file_does(
    sqlite_url: str, options: StorageOptions, pending: PendingConfirmation
) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    async with open_storage(sqlite_url, replace(options, timeout=0.01)) as storage:
        await storage.add_confirmation("one", pending)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("ALTER TABLE confirmations RENAME TO away")
            other.execute("ALTER TABLE notes RENAME TO far_away")
            other.execute("BEGIN IMMEDIATE")
            await assert_unavailable(storage, pending)
            other.execute("ROLLBACK")
            other.execute("ALTER TABLE far_away RENAME TO notes")
            other.execute("ALTER TABLE away RENAME TO confirmations")
        await storage.ping()
        assert await storage.claim_confirmation("one")


async def assert_unavailable(storage: Storage, pending: PendingConfirmation) -> None:
    limits = [Limit("calls", amount=1, seconds=60, key="tester")]
    for unsent in (
        storage.ping,
        lambda: storage.add_confirmation("another", pending),
        lambda: storage.find_confirmation("one"),
        lambda: storage.claim_confirmation("one"),
        lambda: storage.wait_for_outcome("one"),
        lambda: storage.hit(limits),
        lambda: storage.reserve(limits),
        lambda: storage.set_if_absent("+15005550205", 60),
        lambda: storage.get_with_ttl("+15005550205"),
        lambda: storage.reservations(limits[0]),
    ):
        with pytest.raises(
            StoreUnavailable, match="Nothing was sent because the state store"
        ) as caught:
            await unsent()
        assert caught.value.kind == "store_unavailable"
        assert caught.value.retryable
    for already_sent in (
        lambda: storage.record_outcome("one", DONE),
        lambda: storage.release(limits, "entry"),
        lambda: storage.delete_if_equal("+15005550205", "note"),
    ):
        with pytest.raises(OutcomeNotStored, match="could not be stored") as caught:
            await already_sent()
        assert not caught.value.retryable


async def test_records_of_another_version_are_unknown(
    sqlite_url: str, options: StorageOptions, pending: PendingConfirmation
) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    async with open_storage(sqlite_url, options) as storage:
        await storage.add_confirmation("one", pending)
        with closing(sqlite3.connect(path)) as other, other:
            newer = "UPDATE confirmations SET claimed_at = 0, outcome = ?, pending = '{}'"
            other.execute(newer, (NEWER,))
        assert (await storage.wait_for_outcome("one")).error_kind == "outcome_unknown"
        assert await storage.find_confirmation("one") is None


async def test_an_outcome_written_by_a_newer_replica_is_unknown(
    redis_url: str, options: StorageOptions, pending: PendingConfirmation
) -> None:
    client: Any = redis.Redis.from_url(redis_url)  # pyright: ignore[reportUnknownMemberType]
    outcomes: list[str] = []
    async with open_storage(redis_url, replace(options, outcome_timeout=30)) as storage:
        await storage.add_confirmation("one", pending)
        await storage.claim_confirmation("one")

        async def wait() -> None:
            outcomes.append((await storage.wait_for_outcome("one")).error_kind)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            client.rpush("calls-mcp:outcome:one", NEWER)
        await wait()
    client.close()
    assert outcomes == ["outcome_unknown"] * 2


async def test_a_cancelled_wait_does_not_affect_others(
    url: str, options: StorageOptions, pending: PendingConfirmation
) -> None:
    async with open_storage(url, replace(options, outcome_timeout=60)) as storage:
        await storage.add_confirmation("one", pending)
        await storage.claim_confirmation("one")
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(storage.wait_for_outcome, "one")
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await storage.record_outcome("one", DONE)
        assert await storage.wait_for_outcome("one") == DONE
