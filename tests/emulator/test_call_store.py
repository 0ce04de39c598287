"""The call store: its file, its lists and its durability."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from calls_mcp.emulator import Call, CallStore, ManualClock, past_calls
from calls_mcp.emulator.sqlite_database import Anchor, Filter

WEEK = 7 * 86_400


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "calls.sqlite")


def test_a_file_of_a_later_version_is_refused(path: str, clock: ManualClock) -> None:
    CallStore(path, clock).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(sqlite3.DatabaseError, match="not an emulator database of this version"):
        CallStore(path, clock)


def test_due_calls_are_found_with_an_index(path: str, clock: ManualClock) -> None:
    CallStore(path, clock).close()
    with closing(sqlite3.connect(path)) as db:
        for table in ("calls", "callbacks"):
            query = f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE due <= 1 ORDER BY due"  # noqa: S608 - our own names
            assert f"USING INDEX {table}_due" in str(db.execute(query).fetchall())


@pytest.mark.parametrize("side", ["older", "newer"])
@pytest.mark.parametrize(
    "filters",
    [
        [Filter("status", "=", "busy")],
        [Filter("to", "=", "+15005550100"), Filter("status", "=", "completed")],
        [Filter("started", ">=", ManualClock.now - WEEK / 2)],
        [Filter("started", ">=", ManualClock.now - WEEK / 2), Filter("from_", "=", "+1")],
        [Filter("ended", "<=", ManualClock.now - WEEK / 2)],
    ],
    ids=str,
)
def test_paging_in_either_direction_finds_all_matching_calls(
    clock: ManualClock, filters: list[Filter], side: str
) -> None:
    with closing(CallStore(":memory:", clock)) as store:
        store.add(*past_calls(1, 300, clock()))
        expected = [call for call in store.all() if all(_meets(call, each) for each in filters)]
        found: list[Call] = []
        anchor = Anchor("older", 10_000) if side == "older" else Anchor("newer", 0)
        while anchor and (page := store.page(filters, 7, anchor)).items:
            older = side == "older"
            found = [*found, *page.items] if older else [*page.items, *found]
            anchor = page.older if older else page.newer
    assert found == expected


def _meets(call: Call, filter_: Filter) -> bool:
    value = getattr(call, filter_.column)
    if filter_.operator == "=" or value is None:
        return value == filter_.value
    return value >= filter_.value if filter_.operator == ">=" else value <= filter_.value


# Durability


@contextmanager
def writing(database: Path, count: int) -> Generator["subprocess.Popen[str]"]:
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "tests.emulator.writer", str(database), str(count)],
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def kept(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with closing(CallStore(str(database), time.time)) as store:
        return [call.sid for call in store.all()]


def test_a_file_is_used_by_one_emulator_at_a_time(
    path: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calls_mcp.emulator.sqlite_database.PATIENCE", 0)
    with closing(CallStore(path, clock)), pytest.raises(sqlite3.OperationalError, match="locked"):
        CallStore(path, clock)
    CallStore(path, clock).close()


@pytest.mark.process
@pytest.mark.parametrize("after", [1, 5, 20])
def test_confirmed_calls_survive_kill_9(tmp_path: Path, after: int) -> None:
    database = tmp_path / "calls.sqlite"
    with writing(database, 1_000_000) as process:
        assert process.stdout
        answered = [process.stdout.readline().strip() for _ in range(after)]
        process.kill()
        answered += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert len(answered) >= after
    assert {*answered} <= {*kept(database)}
    assert len(kept(database)) <= len(answered) + 1  # the response to the last one may be lost
    with writing(database, 1) as process:
        another = process.communicate(timeout=60)[0].strip()
    assert kept(database)[0] == another
