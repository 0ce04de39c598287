"""The database of calls: of this version, looked up by index, listed in either direction."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from calls_mcp.emulator import Call, CallStore, ManualClock, seed_history
from calls_mcp.emulator.call_store import Anchor, Filter

WEEK = 7 * 86_400


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "calls.sqlite")


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
def test_a_walk_in_either_direction_finds_what_a_look_at_every_call_finds(
    clock: ManualClock, filters: list[Filter], side: str
) -> None:
    with closing(CallStore(":memory:", clock)) as store:
        seed_history(store, 1, 300, clock())
        expected = [call for call in store.all() if all(_meets(call, each) for each in filters)]
        found: list[Call] = []
        anchor = Anchor("older", 10_000) if side == "older" else Anchor("newer", 0)
        while (page := store.page(filters, 7, anchor)).calls:
            older = anchor.side == "older"
            found = [*found, *page.calls] if older else [*page.calls, *found]
            anchor = Anchor(anchor.side, page.oldest if older else page.newest)
    assert found == expected


def _meets(call: Call, filter_: Filter) -> bool:
    value = getattr(call, filter_.column)
    if filter_.operator == "=":
        return value == filter_.value
    return value >= filter_.value if filter_.operator == ">=" else value <= filter_.value
