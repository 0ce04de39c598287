"""What may happen to the file of a database: old versions, other writers, crashes, a full disk."""

import os
import resource
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Event

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from calls_mcp.emulator import ManualClock
from calls_mcp.errors import StoreUnavailable
from calls_mcp.storage import (
    Binding,
    Database,
    Exhausted,
    Limit,
    OperatorDecision,
    PendingConfirmation,
    StorageOptions,
    open_storage,
)
from calls_mcp.tools.outcome import Outcome

from . import crew

pytestmark = pytest.mark.anyio

FIRST_EDITION = Path(__file__).with_name("first_edition")
THEN = 1893456000.0  # when those files were written
BINDING = Binding("create_call", "digest", "ann")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
async def database(file: Path) -> AsyncGenerator[Database]:
    database = Database(file, busy=30)
    yield database
    await database.aclose()


def note(key: str, text: str = "") -> Callable[[sqlite3.Connection], None]:
    def work(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO notes (key, text, until) VALUES (?, ?, 4e9)", (key, text))

    return work


async def notes(database: Database) -> list[object]:
    return [key for (key,) in await database.look_at_all("SELECT key FROM notes ORDER BY key")]


def write_as_first_edition(version: int, file: Path) -> None:
    with closing(sqlite3.connect(file)) as old:
        old.executescript((FIRST_EDITION / f"{version}.sql").read_text("utf-8"))
        assert old.execute("PRAGMA user_version").fetchone() == (version,)


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_confirmations_of_the_first_edition_still_work(version: int, file: Path) -> None:
    write_as_first_edition(version, file)
    clock = ManualClock(THEN)
    async with open_storage(f"sqlite:///{file}", StorageOptions(clock=clock)) as storage:
        expected = PendingConfirmation(BINDING, "queued", THEN + 300)
        assert await storage.get("unused") == expected
        assert await storage.claim("unused")
        assert not await storage.claim("used")
        assert await storage.outcome("used") == Outcome(outcome="done", warnings=("für ä",))
        assert await storage.noted("number:AC0:+15005550205")


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_what_the_first_edition_counted_still_counts(version: int, file: Path) -> None:
    write_as_first_edition(version, file)
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
        assert await kept.hit([per_day]) == Exhausted("calls_per_day", 86_400)
        assert await kept.reserve([in_flight]) == Exhausted("in_flight", 600)
        of_one = Limit("principal.calls_per_day", 3, 86_400, "AC0/a/b1")
        assert [await kept.hit([of_one]) for _ in range(2)] == [
            None,
            Exhausted(of_one.name, 86_400),
        ]
        (placed,) = await kept.reservations(in_flight)
        await kept.release([in_flight], placed)
        assert await kept.reservations(in_flight) == []
        under_way = Limit("under_way", 9, 600, '["AC0", "+1/2", "+3"]')
        assert await kept.reservations(under_way) == ["sent"]


@pytest.mark.parametrize("version", [2, 3])
async def test_approval_requests_of_the_first_edition_can_be_decided(
    version: int, file: Path
) -> None:
    write_as_first_edition(version, file)
    clock = ManualClock(THEN)
    async with open_storage(f"sqlite:///{file}", StorageOptions(clock=clock)) as storage:
        (request,) = (await storage.pending_requests(9)).requests
        assert (request.identifier, request.expires_at) == ("asked", THEN + 900)
        yes = OperatorDecision(is_approval=True, by="bob", at=clock())
        assert await storage.decide("asked", yes) == yes
        denied = await storage.find_request("denied")
        assert denied
        assert denied.decision == OperatorDecision(
            is_approval=False, by="bob", at=THEN, reason="no"
        )
        pending = await storage.get("asked")
        assert pending
        assert pending.for_operator == (version == 3)


async def test_a_newer_version_is_refused_and_left_alone(file: Path, database: Database) -> None:
    await database.run(note("one"))
    await database.aclose()
    with closing(sqlite3.connect(file)) as newer:
        newer.execute("PRAGMA user_version = 99")
        newer.execute("PRAGMA journal_mode = DELETE")
    for work in (database.check, lambda: database.run(note("two")), lambda: notes(database)):
        with pytest.raises(StoreUnavailable) as refused:
            await work()
        assert "newer version of calls-mcp" in str(refused.value.__cause__)
    with closing(sqlite3.connect(file)) as newer:
        assert newer.execute("SELECT key FROM notes").fetchall() == [("one",)]
        assert newer.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def write_pairs(file: Path, number: int) -> None:
    """Write so many pairs of notes, each pair at once."""
    database = Database(file, busy=30)
    for each in range(number):
        database.write(partial(write_pair, f"{os.getpid()}.{each}"))
    database.close()


def write_pair(name: str, db: sqlite3.Connection) -> None:
    for half in "xy":
        note(f"{name}{half}")(db)


@pytest.mark.process
async def test_processes_that_begin_at_once_migrate_and_write_without_losing_anything(
    file: Path, database: Database
) -> None:
    write_as_first_edition(1, file)
    crew.together(write_pairs, file, 25)
    assert len(await notes(database)) == crew.SIZE * 2 * 25 + 1


@pytest.mark.process
async def test_a_writer_that_is_killed_leaves_all_or_nothing(
    file: Path, database: Database
) -> None:
    for least in (10, 20, 30):
        writer = crew.start(write_pairs, file, 1_000_000)
        while len(await notes(database)) < least:
            await anyio.lowlevel.checkpoint()
        writer.kill()
        writer.join()
    found = [str(key) for key in await notes(database)]
    assert len({key[:-1] for key in found}) * 2 == len(found)
    await database.run(note("afterwards"))
    assert await database.look("PRAGMA integrity_check") == ("ok",)


async def test_a_full_disk_refuses_writes_and_keeps_what_there_was(database: Database) -> None:
    await database.run(note("before"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(StoreUnavailable):
            await database.run(note("large", "x" * 1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await database.run(note("after"))
    assert await notes(database) == ["after", "before"]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's rights")
async def test_a_folder_without_permission_refuses_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/")
    async with open_storage() as storage:
        os.setresuid(65534, 65534, 0)
        try:
            assert await storage.noted("key") is None
            for work in (storage.ping, lambda: storage.note("key", 60)):
                with pytest.raises(StoreUnavailable, match="Nothing was sent") as refused:
                    await work()
                assert isinstance(refused.value.__cause__, PermissionError)
        finally:
            os.setresuid(0, 0, 0)


async def test_a_writer_waits_for_another_only_so_long(file: Path) -> None:
    database = Database(file, busy=0.05)
    await database.run(note("before"))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await database.run(note("meanwhile"))
        assert await notes(database) == ["before"]
        other.execute("ROLLBACK")
    await database.run(note("after"))
    await database.aclose()


async def test_a_file_that_takes_the_place_of_another_is_used(
    file: Path, database: Database
) -> None:
    await database.run(note("old"))
    await anyio.Path(file).rename(file.with_name("moved.db"))
    assert await notes(database) == []
    await database.run(note("new"))
    assert await notes(database) == ["new"]


async def test_what_fails_leaves_no_trace(database: Database) -> None:
    def fail(db: sqlite3.Connection) -> None:
        note("one")(db)
        raise sqlite3.IntegrityError("made up")

    with pytest.raises(StoreUnavailable):
        await database.run(fail)
    assert await notes(database) == []


async def test_all_who_write_here_wait_for_others_at_the_same_time(file: Path) -> None:
    database, busy, failures = Database(file, busy=0.4), 0.4, list[StoreUnavailable]()
    await database.run(note("before"))

    async def write() -> None:
        try:
            await database.run(note("meanwhile"))
        except StoreUnavailable as failure:
            failures.append(failure)

    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with anyio.fail_after(5 * busy):
            async with anyio.create_task_group() as tasks:
                for _ in range(15):
                    tasks.start_soon(write)
        other.execute("ROLLBACK")
    assert len(failures) == 15
    await database.run(note("after"))
    await database.aclose()


async def test_who_looks_waits_for_no_writer_of_the_same_process(database: Database) -> None:
    await database.run(note("before"))
    is_writing, has_looked = Event(), Event()

    def write(db: sqlite3.Connection) -> bool:
        note("meanwhile")(db)
        is_writing.set()
        return has_looked.wait(5)

    async def run() -> None:
        was_looked_at.append(await database.run(write))

    was_looked_at: list[bool] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await anyio.to_thread.run_sync(is_writing.wait)
        assert await notes(database) == ["before"]
        has_looked.set()
    assert was_looked_at == [True]
    assert await notes(database) == ["before", "meanwhile"]


@pytest.mark.parametrize(
    ("version", "table"), [(0, "people (name)"), (0, "audit (who)"), (2, "people (name)")]
)
async def test_a_database_of_another_program_is_refused_and_left_alone(
    version: int, table: str, file: Path, database: Database
) -> None:
    with closing(sqlite3.connect(file)) as foreign:
        foreign.execute(f"CREATE TABLE {table}")
        foreign.execute(f"PRAGMA user_version = {version}")
    before = await anyio.Path(file).read_bytes()
    for work in (database.check, lambda: database.run(note("one")), lambda: notes(database)):
        with pytest.raises(StoreUnavailable) as refused:
            await work()
        assert "another program" in str(refused.value.__cause__)
    assert await anyio.Path(file).read_bytes() == before
    assert [each.name for each in file.parent.iterdir()] == [file.name]
