"""A store that goes back in time: what was used before must not be used again."""

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from calls_mcp.emulator import ManualClock
from calls_mcp.errors import StoreUnavailable
from calls_mcp.guard.change import Stop
from calls_mcp.guard.confirmations import Confirmations
from calls_mcp.guard.signing import Signer
from calls_mcp.storage import restored_backup
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import Binding, PendingConfirmation, StorageOptions
from calls_mcp.tools.outcome import Outcome
from tests.harness import placing
from tests.http.test_replicas import pair

from .redis_server import RedisServer

pytestmark = pytest.mark.anyio

DONE = Outcome.model_validate({"outcome": "done", "call": {"sid": "CA1", "live": True}})


@pytest.fixture
def pending(clock: ManualClock) -> PendingConfirmation:
    return PendingConfirmation(Binding("create_call", "digest", "ann"), "queued", clock() + 300)


def restore(server: RedisServer) -> None:
    """Kill Redis, and start it from its last snapshot."""
    server.stop()
    server.start()


async def use(storage: Storage) -> None:
    assert await storage.claim_confirmation("one")
    await storage.record_outcome("one", DONE)


def confirmations(storage: Storage) -> Confirmations:
    return Confirmations(storage, Signer(["k" * 32]), 300)


async def claim_again(storage: Storage, pending: PendingConfirmation) -> Stop:
    stop = await confirmations(storage).claim("one", pending)
    assert isinstance(stop, Stop)
    return stop


@pytest.mark.services
async def test_a_confirmation_is_used_once_even_if_redis_is_restored_from_a_snapshot(
    own_redis: RedisServer,
    options: StorageOptions,
    pending: PendingConfirmation,
) -> None:
    async with (
        open_storage(own_redis.url, options) as storage,
        open_storage(own_redis.url, options) as other,
    ):
        await storage.add_confirmation("one", pending)
        own_redis.run("SAVE")
        await use(storage)
        restore(own_redis)
        assert await other.find_confirmation("one") == pending
        elsewhere = await claim_again(other, pending)
        assert elsewhere.outcome.outcome == "expired"
        assert "restored" in str(elsewhere.outcome.reason)
        here = await claim_again(storage, pending)
        assert here.decision == "expired"


@pytest.mark.services
async def test_what_redis_kept_through_a_restart_is_still_known(
    own_redis: RedisServer, options: StorageOptions, pending: PendingConfirmation
) -> None:
    async with (
        open_storage(own_redis.url, options) as storage,
        open_storage(own_redis.url, options) as other,
    ):
        await storage.add_confirmation("one", pending)
        await use(storage)
        own_redis.run("SAVE")
        restore(own_redis)
        assert not await other.claim_confirmation("one")
        assert await other.wait_for_outcome("one") == DONE
        await other.add_confirmation("two", pending)
        assert await other.claim_confirmation("two")


@pytest.mark.services
async def test_a_token_places_one_call_even_if_redis_is_restored(own_redis: RedisServer) -> None:
    async with pair(own_redis.url) as both:
        asked = await both.first.call("create_call", **placing())
        token = asked["confirmation"]["token"]
        own_redis.run("SAVE")
        used = await both.first.call("create_call", **placing(), confirmation_token=token)
        assert used["outcome"] == "done"
        restore(own_redis)
        for agent in (both.second, both.first):
            again = await agent.call("create_call", **placing(), confirmation_token=token)
            assert again["outcome"] == "expired"
        assert len([each for each in both.emulator.requests if each.method == "POST"]) == 1


async def go_back_in_redis(url: str, use_it: Callable[[], Awaitable[object]]) -> None:
    client: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
    with client:
        kept = {key: client.dump(key) for key in client.keys("calls-mcp:*")}
        await use_it()
        client.flushall()
        for key, value in kept.items():
            client.restore(key, 60_000, value)


async def test_a_process_remembers_what_it_used_if_redis_is_restored_under_it(
    redis_url: str, options: StorageOptions, pending: PendingConfirmation
) -> None:
    async with open_storage(redis_url, options) as storage:
        await storage.add_confirmation("one", pending)
        await go_back_in_redis(redis_url, lambda: use(storage))
        again = await claim_again(storage, pending)
        assert again.decision == "replayed"
        assert again.outcome.call == DONE.call


async def test_a_process_remembers_a_claim_that_has_no_outcome_yet(
    redis_url: str, options: StorageOptions, pending: PendingConfirmation
) -> None:
    async with open_storage(redis_url, options) as storage:
        await storage.add_confirmation("one", pending)
        await go_back_in_redis(redis_url, lambda: storage.claim_confirmation("one"))
        again = await claim_again(storage, pending)
        assert again.outcome.error_kind == "outcome_unknown"


async def test_a_process_remembers_a_bounded_number_of_claims(
    redis_url: str, options: StorageOptions, pending: PendingConfirmation
) -> None:
    async with (
        open_storage(redis_url, options) as other,
        open_storage(redis_url, replace(options, capacity=2)) as storage,
    ):
        for name in ("one", "two", "three"):
            await other.add_confirmation(name, pending)

        async def use_three() -> None:
            for name in ("one", "two", "three"):
                assert await storage.claim_confirmation(name)

        await go_back_in_redis(redis_url, use_three)
        claims = [await storage.claim_confirmation(name) for name in ("three", "two", "one")]
        assert claims == [False, False, True]


def _replace(file: Path, backup: Path) -> None:
    backup.replace(file)


def _overwrite(file: Path, backup: Path) -> None:
    file.write_bytes(backup.read_bytes())


def _copy_by_sqlite(target: Path, source: Path) -> None:
    with closing(sqlite3.connect(source)) as kept, closing(sqlite3.connect(target)) as restored:
        kept.backup(restored)


def _replace_without_claims(file: Path, backup: Path) -> None:
    backup.replace(file)
    file.with_name(f"{file.name}-claims").unlink()


@pytest.mark.parametrize(
    "restore_file", [_replace, _overwrite, _copy_by_sqlite, _replace_without_claims]
)
async def test_a_restored_file_accepts_no_confirmation_that_was_used_after_the_backup(
    restore_file: Callable[[Path, Path], None],
    tmp_path: Path,
    options: StorageOptions,
    pending: PendingConfirmation,
) -> None:
    file, backup = tmp_path / "state.db", tmp_path / "backup.db"
    async with open_storage(f"sqlite:///{file}", options) as storage:
        await storage.add_confirmation("one", pending)
        _copy_by_sqlite(backup, file)
        await use(storage)
    restore_file(file, backup)  # the last one to close the original has removed its other files
    async with open_storage(f"sqlite:///{file}", options) as storage:
        assert (await claim_again(storage, pending)).outcome.outcome == "expired"
        await storage.add_confirmation("two", pending)
        assert await storage.claim_confirmation("two")


async def test_confirmations_survive_the_use_of_others_at_another_path_of_the_file(
    tmp_path: Path, options: StorageOptions, pending: PendingConfirmation
) -> None:
    file, link = tmp_path / "state.db", tmp_path / "links" / "state.db"
    link.parent.mkdir()
    link.symlink_to(file)
    async with (
        open_storage(f"sqlite:///{file}", options) as storage,
        open_storage(f"sqlite:///{link}", options) as linked,
    ):
        for name in ("one", "two", "three"):
            await storage.add_confirmation(name, pending)
        assert await linked.claim_confirmation("one")
        assert await storage.claim_confirmation("two")
        assert await linked.claim_confirmation("three")


async def test_a_confirmation_expires_if_its_claim_could_not_be_noted(
    tmp_path: Path, options: StorageOptions, pending: PendingConfirmation
) -> None:
    file, claims = tmp_path / "state.db", tmp_path / "state.db-claims"
    async with open_storage(f"sqlite:///{file}", options) as storage:
        for name in ("one", "two"):
            await storage.add_confirmation(name, pending)
        claims.unlink()
        claims.mkdir()
        with pytest.raises(StoreUnavailable):
            await storage.claim_confirmation("one")
        claims.rmdir()
        assert not await storage.claim_confirmation("one")
        assert not await storage.claim_confirmation("two")


async def test_a_file_accepts_no_confirmation_from_before_the_machine_was_started(
    monkeypatch: pytest.MonkeyPatch,
    sqlite_url: str,
    options: StorageOptions,
    pending: PendingConfirmation,
) -> None:
    async with open_storage(sqlite_url, options) as storage:
        await storage.add_confirmation("one", pending)
        monkeypatch.setattr(restored_backup, "_boot_id", lambda: "another")
        assert (await claim_again(storage, pending)).outcome.outcome == "expired"
        await storage.add_confirmation("two", pending)
        assert await storage.claim_confirmation("two")


async def test_a_confirmation_outlives_the_process_that_issued_it(
    shared_url: str, options: StorageOptions, pending: PendingConfirmation
) -> None:
    async with open_storage(shared_url, options) as storage:
        await storage.add_confirmation("one", pending)
    async with open_storage(shared_url, options) as storage:
        assert await storage.claim_confirmation("one")
