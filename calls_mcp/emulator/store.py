"""The calls in SQLite: the only module that knows SQL.

No timer moves a call on. Whoever looks first brings all calls up to the present with a few
updates on indexes (`ADVANCE`), so that a filter on the status is plain SQL.
"""

import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from operator import attrgetter
from threading import RLock
from typing import Literal, cast

from calls_mcp.emulator.call import Call
from calls_mcp.emulator.clock import Clock
from calls_mcp.emulator.lifecycle import following

PRICE_PER_MINUTE = 0.013
PRICE_DELAY = 5

FIELDS = tuple(field.name for field in fields(Call))
COLUMNS = ", ".join(f'"{name}"' for name in FIELDS)
ROW: Callable[[Call], tuple[object, ...]] = attrgetter(*FIELDS)
MARKS = ", ".join("?" for _ in FIELDS)

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS calls (seq INTEGER PRIMARY KEY AUTOINCREMENT, {COLUMNS});
CREATE UNIQUE INDEX IF NOT EXISTS calls_sid ON calls (sid);
CREATE INDEX IF NOT EXISTS calls_to ON calls ("to", seq);
CREATE INDEX IF NOT EXISTS calls_from ON calls (from_, seq);
CREATE INDEX IF NOT EXISTS calls_status ON calls (status, seq);
CREATE INDEX IF NOT EXISTS calls_parent ON calls (parent_call_sid, seq);
CREATE INDEX IF NOT EXISTS calls_started ON calls (started);
CREATE INDEX IF NOT EXISTS calls_ended ON calls (ended);
CREATE INDEX IF NOT EXISTS calls_to_price ON calls (price_at) WHERE price IS NULL;
"""

ADVANCE = (
    """UPDATE calls SET status = 'ringing', started = ring_at, updated = ring_at
    WHERE status = 'queued' AND ring_at <= :now""",
    """UPDATE calls SET status = 'in-progress', answered_by = detects, updated = answer_at
    WHERE status = 'ringing' AND answer_at <= :now""",
    """UPDATE calls SET status = end_as, ended = end_at, updated = end_at,
        duration = CAST(end_at - answer_at + 0.5 AS INTEGER),
        price_at = CASE WHEN answer_at IS NULL THEN NULL ELSE end_at + :delay END
    WHERE status IN ('ringing', 'in-progress') AND end_at <= :now""",
    """UPDATE calls SET price = -:rate * ((max(duration, 1) + 59) / 60),
        updated = price_at
    WHERE price IS NULL AND price_at <= :now""",
)

INSERT = f"INSERT INTO calls ({COLUMNS}) VALUES ({MARKS})"  # noqa: S608 - our own column names
REPLACE = f"UPDATE calls SET ({COLUMNS}) = ({MARKS}) WHERE sid = ?"  # noqa: S608 - likewise

Field = Literal["to", "from_", "parent_call_sid", "status", "started", "ended"]


@dataclass(frozen=True)
class Criterion:
    """A condition that the listed calls meet: `started >= 1893499200.0`."""

    field: Field
    operator: Literal["=", "<", "<=", ">="]
    value: str | float


@dataclass(frozen=True)
class Anchor:
    """A place in the list, beside the call with this sequence number."""

    side: Literal["older", "newer"]
    seq: int


@dataclass(frozen=True)
class Stretch:
    """Neighbouring calls of the list, newest first.

    Attributes:
        calls: The calls.
        newest: The sequence number of the first of them, 0 if there is none.
        oldest: The sequence number of the last of them, 0 if there is none.
        more: Whether older calls follow.
    """

    calls: tuple[Call, ...] = ()
    newest: int = 0
    oldest: int = 0
    more: bool = False


class CallStore:
    """The account's calls, always as they are at the time the clock shows.

    The list's order is the order of arrival, so a place in it stays where it is while new
    calls come in. Safe to use from several threads, and a file from several processes.
    """

    def __init__(self, database: str, clock: Clock) -> None:
        self._clock = clock
        self._lock = RLock()
        self._db = sqlite3.connect(
            database, timeout=30, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Let go of the database; what is in a file stays there."""
        self._db.close()

    def count(self) -> int:
        """How many records there are."""
        with self._present():
            rows = self._db.execute("SELECT count(*) FROM calls").fetchall()
        return cast("list[tuple[int]]", rows)[0][0]

    def get(self, sid: str) -> Call | None:
        """The call with this SID, or None."""
        with self._present():
            return self._find(sid)

    def all(self) -> tuple[Call, ...]:
        """Every call, newest first."""
        return self.stretch((), self.count()).calls

    def add(self, *calls: Call) -> None:
        """Append records to the list; the last one becomes the newest."""
        with self._present():
            self._db.executemany(INSERT, map(ROW, calls))

    def amend(self, sid: str, change: Callable[[Call, float], Call]) -> Call | None:
        """Change a call and, if the account has both ends of it, its other record.

        Args:
            sid: Which call.
            change: Gets the call and the time, returns what becomes of it; whatever it raises
                leaves everything as it was.

        Returns:
            The call afterwards, or None if there is none with this SID.
        """
        with self._present() as now:
            call = self._find(sid)
            if call is None:
                return None
            changed = change(call, now)
            self._replace(changed)
            if call.peer_sid and (peer := self._find(call.peer_sid)):
                self._replace(following(peer, changed))
            self._advance(now)
            return self._find(sid)

    def delete(self, sid: str, check: Callable[[Call], None]) -> bool:
        """Remove a call's record; False if there is none with this SID.

        Args:
            sid: Which call.
            check: Gets the call; whatever it raises leaves the record in place.
        """
        with self._present():
            call = self._find(sid)
            if call is None:
                return False
            check(call)
            self._db.execute("DELETE FROM calls WHERE sid = ?", (sid,))
            return True

    def stretch(
        self, criteria: Sequence[Criterion], size: int, anchor: Anchor | None = None
    ) -> Stretch:
        """The calls that meet all criteria: the newest ones, or those next to the anchor.

        Args:
            criteria: What the calls have in common.
            size: How many calls at most.
            anchor: Beside which place; None for the top of the list.
        """
        with self._present():
            rows = self._select(criteria, size, anchor)
            if not rows:
                return Stretch()
            newest, oldest = rows[0][0], rows[-1][0]
            more = bool(self._select(criteria, 1, Anchor("older", oldest)))
        return Stretch(tuple(call for _, call in rows), newest, oldest, more)

    def _select(
        self, criteria: Sequence[Criterion], size: int, anchor: Anchor | None
    ) -> list[tuple[int, Call]]:
        backwards = anchor is not None and anchor.side == "newer"
        conditions = [f'"{each.field}" {each.operator} ?' for each in criteria]
        values: list[str | float] = [each.value for each in criteria]
        if anchor is not None:
            conditions.append("seq > ?" if backwards else "seq < ?")
            values.append(anchor.seq)
        where = " AND ".join(conditions) or "true"
        order = "ASC" if backwards else "DESC"
        query = f"SELECT seq, {COLUMNS} FROM calls WHERE {where} ORDER BY seq {order} LIMIT ?"  # noqa: S608 - names and operators are literals of ours, values are bound
        cursor = self._db.execute(query, (*values, size))
        cursor.row_factory = _numbered_call
        rows = cast("list[tuple[int, Call]]", cursor.fetchall())
        return rows[::-1] if backwards else rows

    def _find(self, sid: str) -> Call | None:
        query = f"SELECT seq, {COLUMNS} FROM calls WHERE sid = ?"  # noqa: S608 - our own column names
        cursor = self._db.execute(query, (sid,))
        cursor.row_factory = _numbered_call
        row = cast("tuple[int, Call] | None", cursor.fetchone())
        return row[1] if row else None

    def _replace(self, call: Call) -> None:
        self._db.execute(REPLACE, (*ROW(call), call.sid))

    @contextmanager
    def _present(self) -> Generator[float]:
        """A transaction in which every call is up to date; yields the time."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            now = self._clock()
            self._advance(now)
            yield now

    def _advance(self, now: float) -> None:
        values = {"now": now, "delay": PRICE_DELAY, "rate": PRICE_PER_MINUTE}
        for statement in ADVANCE:
            self._db.execute(statement, values)


def _numbered_call(_: sqlite3.Cursor, row: tuple[object, ...]) -> tuple[int, Call]:
    seq, *values = row
    return cast("int", seq), Call(**dict(zip(FIELDS, values, strict=True)))  # pyright: ignore[reportArgumentType] - the columns are the fields
