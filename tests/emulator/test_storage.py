"""The database of calls: looked up by index, converted from earlier versions, quick to list."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from calls_mcp.emulator import Call, CallStore, ManualClock, seed_history
from calls_mcp.emulator.storage import Anchor, Criterion

from .test_listing import past

WEEK = 7 * 86_400


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "calls.sqlite")


def version_2(path: str, calls: list[Call]) -> None:
    """A file as version 2 wrote it, with triggers, its indexes and a column more."""
    columns = ", ".join(f'"{name}"' for name in Call._fields)
    marks = ", ".join("?" for _ in Call._fields)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            f"CREATE TABLE calls (seq INTEGER PRIMARY KEY AUTOINCREMENT, arrived, {columns})"
        )
        db.execute("CREATE UNIQUE INDEX calls_sid ON calls (sid)")
        db.execute("CREATE INDEX calls_life ON calls (end_at - created)")
        db.execute(
            "CREATE TRIGGER calls_over_event AFTER UPDATE OF status ON calls"
            " BEGIN SELECT raise(ABORT, 'a trigger of version 2'); END"
        )
        db.executemany(f"INSERT INTO calls ({columns}) VALUES ({marks})", calls)  # noqa: S608 - our own names
        db.execute("PRAGMA user_version = 2")


def test_a_file_of_the_version_before_is_taken_over(path: str, clock: ManualClock) -> None:
    old = [past(n, f"2029-12-31T0{n}:00+00:00") for n in range(3)]
    going_on = old[2]._replace(end_at=clock() + 60)
    version_2(path, [*old[:2], going_on])
    for _ in range(2):
        with closing(CallStore(path, clock)) as store:
            assert [call.status for call in store.all()] == ["in-progress", *["completed"] * 2]
    clock.advance(60)
    with closing(CallStore(path, clock)) as store:
        assert store.all()[0].status == "completed"


def test_a_file_of_a_later_version_is_refused(path: str, clock: ManualClock) -> None:
    CallStore(path, clock).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(sqlite3.DatabaseError, match="another version"):
        CallStore(path, clock)


def test_what_is_due_is_looked_up(path: str, clock: ManualClock) -> None:
    CallStore(path, clock).close()
    with closing(sqlite3.connect(path)) as db:
        for table in ("calls", "callbacks"):
            query = f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE due <= 1 ORDER BY due"  # noqa: S608 - our own names
            assert f"USING INDEX {table}_due" in str(db.execute(query).fetchall())


@pytest.mark.parametrize("side", ["older", "newer"])
@pytest.mark.parametrize(
    "criteria",
    [
        [Criterion("status", "=", "busy")],
        [Criterion("to", "=", "+15005550100"), Criterion("status", "=", "completed")],
        [Criterion("started", ">=", ManualClock.now - WEEK / 2)],
        [Criterion("started", ">=", ManualClock.now - WEEK / 2), Criterion("from_", "=", "+1")],
        [Criterion("ended", "<=", ManualClock.now - WEEK / 2)],
    ],
    ids=str,
)
def test_a_walk_in_either_direction_finds_what_a_look_at_every_call_finds(
    clock: ManualClock, criteria: list[Criterion], side: str
) -> None:
    with closing(CallStore(":memory:", clock)) as store:
        seed_history(store, 1, 300, clock())
        expected = [call for call in store.all() if all(_meets(call, each) for each in criteria)]
        found: list[Call] = []
        anchor = Anchor("older", 10_000) if side == "older" else Anchor("newer", 0)
        while (stretch := store.stretch(criteria, 7, anchor)).calls:
            older = anchor.side == "older"
            found = [*found, *stretch.calls] if older else [*stretch.calls, *found]
            anchor = Anchor(anchor.side, stretch.oldest if older else stretch.newest)
    assert found == expected


def _meets(call: Call, criterion: Criterion) -> bool:
    value = getattr(call, criterion.field)
    if criterion.operator == "=":
        return value == criterion.value
    return value >= criterion.value if criterion.operator == ">=" else value <= criterion.value
