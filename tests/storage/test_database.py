"""The SQLite file with old versions, other writers, crashes and a full disk."""

import os
import resource
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from multiprocessing.synchronize import Semaphore
from pathlib import Path

import anyio
import pytest

from calls_mcp.emulator import ManualClock
from calls_mcp.errors import StoreUnavailable
from calls_mcp.storage.database import Database
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.rate_limits import Limit, LimitExceeded
from calls_mcp.storage.records import (
    Binding,
    CallsTo,
    Frequency,
    OperatorDecision,
    PendingConfirmation,
    StorageOptions,
    TalkTime,
)
from calls_mcp.tools.outcome import Outcome

from . import processes

pytestmark = pytest.mark.anyio

EARLIER_VERSIONS = Path(__file__).with_name("earlier_versions")
THEN = 1893456000.0  # when those files were written
BINDING = Binding("create_call", "digest", "ann")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def database(file: Path) -> Generator[Database]:
    database = Database(file, timeout=30)
    yield database
    database.close()


def note(key: str, text: str = "") -> Callable[[sqlite3.Connection], None]:
    def work(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO notes (key, text, until) VALUES (?, ?, 4e9)", (key, text))

    return work


def notes(database: Database) -> list[object]:
    return [key for (key,) in database.read("SELECT key FROM notes ORDER BY key")]


def write_as_earlier_version(version: int, file: Path) -> None:
    with closing(sqlite3.connect(file)) as old:
        old.executescript((EARLIER_VERSIONS / f"{version}.sql").read_text("utf-8"))
        assert old.execute("PRAGMA user_version").fetchone() == (version,)


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_confirmations_of_an_earlier_version_still_work(version: int, file: Path) -> None:
    write_as_earlier_version(version, file)
    clock = ManualClock(THEN)
    async with open_storage(f"sqlite:///{file}", StorageOptions(clock=clock)) as storage:
        expected = PendingConfirmation(BINDING, "queued", THEN + 300)
        assert await storage.find_confirmation("unused") == expected
        assert await storage.claim_confirmation("unused")
        assert not await storage.claim_confirmation("used")
        assert await storage.wait_for_outcome("used") == Outcome(
            outcome="done", warnings=("für ä",)
        )
        assert await storage.get_with_ttl("number:AC0:+15005550205")


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_counts_of_an_earlier_version_still_count(version: int, file: Path) -> None:
    write_as_earlier_version(version, file)
    with closing(sqlite3.connect(file)) as old, old:
        parties = 'under_way/["AC0", "+1/2", "+3"]'
        insert = "INSERT INTO entries VALUES (?, ?, ?, ?)"
        old.execute(insert, (f"entered/{parties}", "sent.0", THEN, THEN + 600))
        for entry in ("one.0", "two.0"):
            key = "principal.calls_per_day/AC0/a/b1/12/86400/second"
            old.execute(insert, (key, entry, THEN, THEN + 86_400))
    async with open_storage(f"sqlite:///{file}", StorageOptions(clock=ManualClock(THEN))) as kept:
        per_day, in_flight = (
            Limit("calls_per_day", 1, 86_400, "all"),
            Limit("in_flight", 1, 60, "all"),
        )
        assert await kept.hit([per_day]) == LimitExceeded("calls_per_day", 86_400)
        assert await kept.reserve([in_flight]) == LimitExceeded("in_flight", 600)
        of_one = Limit("principal.calls_per_day", 3, 86_400, "AC0/a/b1")
        assert [await kept.hit([of_one]) for _ in range(2)] == [
            None,
            LimitExceeded(of_one.name, 86_400),
        ]
        (placed,) = await kept.reservations(in_flight)
        await kept.release([in_flight], placed)
        assert await kept.reservations(in_flight) == []
        under_way = Limit("under_way", 9, 600, '["AC0", "+1/2", "+3"]')
        assert await kept.reservations(under_way) == ["sent"]


@pytest.mark.parametrize("version", [2, 3])
async def test_approval_requests_of_an_earlier_version_can_be_decided(
    version: int, file: Path
) -> None:
    write_as_earlier_version(version, file)
    clock = ManualClock(THEN)
    async with open_storage(f"sqlite:///{file}", StorageOptions(clock=clock)) as storage:
        (request,) = (await storage.pending_requests(9)).requests
        assert (request.identifier, request.expires_at) == ("asked", THEN + 900)
        assert request.preview.headline
        yes = OperatorDecision(is_approval=True, by="bob", at=clock())
        assert await storage.decide_request("asked", yes) == yes
        denied = await storage.find_request("denied")
        assert denied
        assert denied.decision == OperatorDecision(
            is_approval=False, by="bob", at=THEN, reason="no"
        )
        pending = await storage.find_confirmation("asked")
        assert pending
        assert pending.for_operator == (version == 3)


@pytest.mark.parametrize(
    ("version", "table", "reason"),
    [
        (99, "notes (key)", "newer version of calls-mcp"),
        (0, "people (name)", "another program"),
        (0, "audit (who)", "another program"),
        (2, "people (name)", "another program"),
    ],
)
def test_an_incompatible_database_is_rejected_unchanged(
    version: int, table: str, reason: str, file: Path, database: Database
) -> None:
    with closing(sqlite3.connect(file)) as foreign:
        foreign.execute(f"CREATE TABLE {table}")
        foreign.execute(f"PRAGMA user_version = {version}")
    before = file.read_bytes()
    for work in (
        database.require_writable,
        lambda: database.write(note("one")),
        lambda: notes(database),
    ):
        with pytest.raises(sqlite3.DatabaseError, match=reason):
            work()
    assert file.read_bytes() == before
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def write_pairs(file: Path, number: int, written: Semaphore | None = None) -> None:
    """Write this many pairs of notes, each in one transaction, and report each."""
    database = Database(file, timeout=processes.TIMEOUT)
    for each in range(number):
        database.write(partial(write_pair, f"{os.getpid()}.{each}"))
        if written:
            written.release()
    database.close()


def write_pair(name: str, db: sqlite3.Connection) -> None:
    for half in "xy":
        note(f"{name}{half}")(db)


@pytest.mark.process
def test_concurrent_processes_migrate_and_write_without_losing_data(
    file: Path, database: Database
) -> None:
    write_as_earlier_version(1, file)
    processes.run_in_each(write_pairs, file, 25)
    assert len(notes(database)) == processes.COUNT * 2 * 25 + 1


@pytest.mark.process
def test_a_killed_writer_leaves_all_or_nothing(file: Path, database: Database) -> None:
    for _ in range(3):
        written = processes.semaphore()
        writer = processes.start(write_pairs, file, 1_000_000, written)
        for _ in range(5):
            assert written.acquire(timeout=60)
        writer.kill()
        writer.join()
    found = [str(key) for key in notes(database)]
    assert len({key[:-1] for key in found}) * 2 == len(found)
    database.write(note("afterwards"))
    assert database.read("PRAGMA integrity_check") == [("ok",)]


def test_a_full_disk_rejects_writes_and_keeps_data(database: Database) -> None:
    database.write(note("before"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(sqlite3.OperationalError):
            database.write(note("large", "x" * 1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    database.write(note("after"))
    assert notes(database) == ["after", "before"]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's rights")
async def test_changes_fail_in_a_read_only_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/")
    async with open_storage() as storage:
        os.setresuid(65534, 65534, 0)
        try:
            assert await storage.get_with_ttl("key") is None
            for work in (storage.ping, lambda: storage.set_if_absent("key", 60)):
                with pytest.raises(StoreUnavailable, match="Nothing was sent") as refused:
                    await work()
                assert isinstance(refused.value.__cause__, PermissionError)
        finally:
            os.setresuid(0, 0, 0)


def test_a_replaced_file_is_used(file: Path, database: Database) -> None:
    database.write(note("old"))
    file.rename(file.with_name("moved.db"))
    assert notes(database) == []
    database.write(note("new"))
    assert notes(database) == ["new"]


def test_a_failed_transaction_is_rolled_back(database: Database) -> None:
    def fail(db: sqlite3.Connection) -> None:
        note("one")(db)
        raise sqlite3.IntegrityError("made up")

    with pytest.raises(sqlite3.IntegrityError):
        database.write(fail)
    assert notes(database) == []


async def test_only_writers_wait_for_another_process(file: Path) -> None:
    timeout, failures = 0.4, list[StoreUnavailable]()

    async with open_storage(f"sqlite:///{file}", StorageOptions(timeout=timeout)) as storage:
        assert await storage.set_if_absent("key", 60, "before")

        async def write() -> None:
            with pytest.raises(StoreUnavailable) as refused:
                await storage.set_if_absent("other", 60)
            failures.append(refused.value)

        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with anyio.fail_after(5 * timeout):
                async with anyio.create_task_group() as tasks:
                    for _ in range(15):
                        tasks.start_soon(write)
                    assert await storage.get_with_ttl("key")
            other.execute("ROLLBACK")
        assert len(failures) == 15
        assert await storage.set_if_absent("other", 60)


async def test_readers_do_not_wait_for_writers_of_the_same_process(file: Path) -> None:
    async with open_storage(f"sqlite:///{file}", StorageOptions(timeout=60)) as storage:
        await storage.set_if_absent("key", 60, "before")
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(storage.set_if_absent, "other", 60)
                await anyio.wait_all_tasks_blocked()  # the writer's thread has the connection
                with anyio.fail_after(10):
                    assert await storage.get_with_ttl("key")
                assert await storage.get_with_ttl("other") is None
                other.execute("ROLLBACK")
        assert await storage.get_with_ttl("other")


async def test_previews_do_not_wait_for_the_write_lock(file: Path) -> None:
    options, budget = StorageOptions(timeout=0.1), Limit("minutes_per_day", 60, 86_400, "AC")
    async with open_storage(f"sqlite:///{file}", options) as storage:
        await storage.calls_to(["number"], Frequency(), "a call")
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await storage.calls_to(["number"], Frequency()) == [
                CallsTo(1, is_known=True, last="a call")
            ]
            assert await storage.spend([budget], TalkTime("", 0, 61, 61)) == budget
            assert await storage.count_hits(budget) == 0
            with pytest.raises(StoreUnavailable):
                await storage.spend([budget], TalkTime("another call", 0, 60, 60))
