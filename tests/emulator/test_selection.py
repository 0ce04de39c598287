"""Lists cost what their page costs, not what the table does."""

import sqlite3
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from itertools import combinations

import pytest

from calls_mcp.emulator import Call, CallStore, ManualClock, seed_history
from calls_mcp.emulator.outbox import DUE, LATEST
from calls_mcp.emulator.selection import Anchor, Criterion, Field, selection
from calls_mcp.emulator.tables import EXPECTED, LATEST_DIALLED, SCHEMA

from .test_listing import past

SAME = [
    Criterion("to", "=", "+15005550100"),
    Criterion("from_", "=", "+15005550100"),
    Criterion("status", "=", "completed"),
    Criterion("parent_call_sid", "=", f"CA{0:032}"),
]
TIMES = [
    [Criterion("started", ">=", 1.0)],
    [Criterion("started", "<=", 2.0)],
    [Criterion("started", ">=", 1.0), Criterion("started", "<", 2.0)],
    [Criterion("ended", ">=", 1.0), Criterion("ended", "<=", 2.0)],
    [Criterion("started", ">=", 1.0), Criterion("ended", "<=", 2.0)],
]
WISHES = [
    *([each] for each in SAME),
    *TIMES,
    *([each, *times] for each in SAME for times in TIMES),
    *(list(pair) for pair in combinations(SAME, 2)),
    SAME[:3],
]
ANCHORS = [None, Anchor("older", 7), Anchor("newer", 7)]


@pytest.fixture
def db() -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in SCHEMA:
            db.execute(statement)
        yield db


def plan(db: sqlite3.Connection, query: str, values: tuple[object, ...]) -> list[str]:
    rows: list[tuple[int, int, int, str]] = db.execute(
        f"EXPLAIN QUERY PLAN {query}", values
    ).fetchall()
    return [row[3] for row in rows]


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("criteria", WISHES, ids=str)
def test_every_filter_is_looked_up_and_nothing_is_sorted(
    db: sqlite3.Connection, criteria: list[Criterion], anchor: Anchor | None
) -> None:
    query, values = selection(criteria, anchor)
    steps = plan(db, query, (*values, 50))
    assert steps[0].startswith("SEARCH calls USING")
    assert not [step for step in steps if "SCAN" in step or "TEMP B-TREE" in step]


@pytest.mark.parametrize("criterion", SAME)
@pytest.mark.parametrize("times", TIMES)
def test_a_value_and_a_span_of_time_narrow_the_same_search(
    db: sqlite3.Connection, criterion: Criterion, times: list[Criterion]
) -> None:
    query, values = selection([criterion, *times], None)
    first = plan(db, query, (*values, 50))[0]
    assert f"{criterion.field}=?" in first
    assert "seq" in first


def test_the_whole_list_is_read_from_its_end_and_not_sorted(db: sqlite3.Connection) -> None:
    query, values = selection([], None)
    assert plan(db, query, (*values, 50)) == ["SCAN calls"]  # as far as the limit goes
    assert query.endswith("ORDER BY seq DESC LIMIT ?")


@pytest.mark.parametrize(("query", "values"), [(LATEST_DIALLED, ()), (EXPECTED, ()), (DUE, (1, 1))])
def test_what_the_emulator_asks_itself_is_looked_up(
    db: sqlite3.Connection, query: str, values: tuple[object, ...]
) -> None:
    steps = [step for step in plan(db, query, values) if step != "SCAN CONSTANT ROW"]
    assert not [step for step in steps if "SCAN" in step or "TEMP B-TREE" in step]


def test_the_latest_callbacks_are_read_from_their_end(db: sqlite3.Connection) -> None:
    assert plan(db, LATEST, (50,)) == ["SCAN c"]


@pytest.fixture
def calls(clock: ManualClock) -> Generator[CallStore]:
    """A history, and in the midst of it calls that were added late and out of order."""
    with closing(CallStore(":memory:", clock)) as store:
        seed_history(store, 1, 100, clock() - 86_400)
        late = [past(n, f"2029-12-{31 - n:02}T00:00+00:00") for n in range(1, 9)]
        store.add(*(replace(call, ring_at=call.ring_at + 500) for call in late))
        seed_history(store, 2, 100, clock())
        yield store


@pytest.mark.parametrize("field", ["started", "ended"])
@pytest.mark.parametrize("days", [(0, 1), (1, 3), (3, 8), (0, 30)])
def test_a_span_of_time_finds_what_a_look_at_every_call_finds(
    calls: CallStore, clock: ManualClock, field: Field, days: tuple[float, float]
) -> None:
    until, since = (clock() - 86_400 * day for day in days)
    criteria = [Criterion(field, ">=", since), Criterion(field, "<=", until)]
    found = calls.stretch(criteria, 1000).calls
    assert found == tuple(call for call in calls.all() if since <= _time(call, field) <= until)
    assert found


@pytest.mark.parametrize("field", ["started", "ended"])
def test_every_moment_finds_the_calls_of_that_moment(calls: CallStore, field: Field) -> None:
    for call in calls.all():
        moment = _time(call, field)
        criteria = [Criterion(field, ">=", moment), Criterion(field, "<=", moment)]
        assert call in calls.stretch(criteria, 1000).calls


def _time(call: Call, field: Field) -> float:
    time = call.started if field == "started" else call.ended
    return time or 0
