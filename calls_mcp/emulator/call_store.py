"""The account's calls and their status callbacks, in SQLite.

No timer advances calls. Each transaction first advances the calls that are due, so a filter on the
status is plain SQL.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from tenacity import retry, retry_if_exception_message, stop_after_delay, wait_random

from calls_mcp.emulator.call_lifecycle import Call, CallEvent, advanced, due
from calls_mcp.emulator.clock import Clock

PATIENCE = 30  # seconds for another process's transaction to end

_VERSION = 4
_COLUMNS = ", ".join(f'"{name}"' for name in Call._fields)
_MARKS = ", ".join(f"?{position}" for position in range(1, len(Call._fields) + 2))
_SCHEMA = (
    f"""CREATE TABLE IF NOT EXISTS calls (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    {_COLUMNS},
    due, -- when the call changes next by itself, NULL if it never does
    UNIQUE (sid)
)""",
    "CREATE INDEX IF NOT EXISTS calls_due ON calls (due) WHERE due IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS callbacks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused, because a delivery can outlast a reset
    sid,
    sequence,
    status,
    call, -- right after the event, as JSON
    due, -- when it is sent, NULL after the last attempt
    attempts DEFAULT 0,
    attempted, -- when the latest attempt began
    claimed, -- end of the claim of the emulator that sends it, in real time
    outcome, -- the HTTP status of the response, or why there was none
    UNIQUE (sid, sequence)
)""",
    "CREATE INDEX IF NOT EXISTS callbacks_due ON callbacks (due) WHERE due IS NOT NULL",
)
_SELECT = f"SELECT seq, {_COLUMNS} FROM calls"  # noqa: S608 - our own column names
_INSERT = f"INSERT INTO calls ({_COLUMNS}, due) VALUES ({_MARKS})"  # noqa: S608 - our own column names
_UPDATE = f"UPDATE calls SET ({_COLUMNS}, due) = ({_MARKS}) WHERE sid = ?1"  # noqa: S608 - our own column names
_INSERT_CALLBACK = """INSERT INTO callbacks (sid, sequence, status, call, due)
    VALUES (?1, (SELECT count(*) FROM callbacks WHERE sid = ?1), ?2, ?3, ?4)"""
_SELECT_CALLBACK = "SELECT id, sequence, status, call, attempts, outcome FROM callbacks"
# events of a call are sent in order
_IS_DUE = """due <= ? AND NOT EXISTS (
    SELECT 1 FROM callbacks earlier
    WHERE earlier.sid = callbacks.sid AND earlier.sequence < callbacks.sequence
    AND earlier.due IS NOT NULL
)"""
_CLAIM = "UPDATE callbacks SET attempts = attempts + 1, attempted = ?, claimed = ? WHERE id = ?"
_SETTLE = "UPDATE callbacks SET outcome = ?, due = attempted + ?, claimed = NULL WHERE id = ?"

Column = Literal["to", "from_", "parent_call_sid", "status", "started", "ended"]
Value = str | float | None


class Filter(NamedTuple):
    """A condition on the listed calls, such as `started >= 1893499200.0`."""

    column: Column
    operator: Literal["=", "<", "<=", ">="]
    value: str | float


class Anchor(NamedTuple):
    """A position in the list, next to the call with this sequence number."""

    side: Literal["older", "newer"]
    seq: int


class Page(NamedTuple):
    """Neighbouring calls of the list, newest first.

    Attributes:
        calls: The calls.
        newer: The position before the first of them, None if the page is empty.
        older: The position after the last of them, None if no older call follows.
    """

    calls: tuple[Call, ...] = ()
    newer: Anchor | None = None
    older: Anchor | None = None


class Callback(NamedTuple):
    """A status callback: an event of a call, to be sent to the call's callback URL.

    Attributes:
        id: The row.
        sequence: The number of the event within the call, from 0.
        status: The status to report.
        call: The call right after the event.
        attempts: The number of delivery attempts so far.
        outcome: The HTTP status of the latest response, or why there was none.
    """

    id: int
    sequence: int
    status: str
    call: Call
    attempts: int
    outcome: str | None


class CallStore:
    """The account's calls and their status callbacks, always up to date with the clock.

    The list is in order of arrival, so positions stay valid while new calls arrive. It is read
    backwards from the newest call or from an anchor. A walk over all pages reads the table once,
    whatever the filter, and a rare value costs one pass over it (20 ms for 100,000 calls).

    Several threads can use a store, and several processes a file. Every method commits before it
    returns.

    Raises:
        sqlite3.Error: The file cannot be opened, or has other tables.
    """

    def __init__(self, database: str, clock: Clock) -> None:
        self._clock = clock
        self._now = 0.0
        self._lock = threading.RLock()
        self._settled = threading.Condition(self._lock)
        self._connection = sqlite3.connect(
            database, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the database. A file keeps its contents."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Generator[float]:
        """Open or join a transaction of this thread, with all calls up to date. Yield the time."""
        with self._lock:
            if self._connection.in_transaction:
                yield self._now
                return
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._now = self._clock()
                self._advance()
                yield self._now

    # Calls

    def clear(self) -> None:
        """Delete every call and every callback."""
        with self.transaction():
            self._connection.execute("DELETE FROM calls")
            self._connection.execute("DELETE FROM callbacks")

    def count(self) -> int:
        """Return the number of calls."""
        return int(self._number("SELECT count(*) FROM calls"))

    def get(self, sid: str) -> Call | None:
        """Return the call with this SID, None if there is none."""
        with self.transaction():
            found = self._rows(f"{_SELECT} WHERE sid = ?", (sid,))
        return Call._make(found[0][1:]) if found else None

    def all(self) -> tuple[Call, ...]:
        """Return every call, newest first."""
        return self.page((), self.count()).calls

    def last_change(self) -> float:
        """Return the time of the latest change of any call, 0 without calls."""
        return self._number("SELECT max(updated) FROM calls")

    def last_ring_at(self) -> float:
        """Return when the last call in the queue is dialled, 0 if the queue is empty."""
        queued = "due IS NOT NULL AND status = 'queued' AND direction = 'outbound-api'"
        return self._number(f"SELECT max(ring_at) FROM calls WHERE {queued}")  # noqa: S608 - our own text

    def fill(self, calls: Iterable[Call]) -> bool:
        """Append calls to an empty list; return False if it is not empty."""
        with self.transaction():
            if self.count():
                return False
            self._write(_INSERT, calls)
            return True

    def add(self, *calls: Call) -> None:
        """Append calls to the list; the last one becomes the newest."""
        with self.transaction():
            self._write(_INSERT, calls)

    def update(self, call: Call) -> None:
        """Replace the call with the same SID."""
        with self.transaction():
            self._write(_UPDATE, [call])

    def delete(self, sid: str) -> None:
        """Delete a call."""
        with self.transaction():
            self._connection.execute("DELETE FROM calls WHERE sid = ?", (sid,))

    def page(self, filters: Sequence[Filter], size: int, anchor: Anchor | None = None) -> Page:
        """Return the calls that match all filters: the newest ones, or those next to the anchor.

        Args:
            filters: The conditions that all calls meet.
            size: The maximum number of calls.
            anchor: A position in the list, None for its start.
        """
        with self.transaction():
            found = self._select(filters, size, anchor)
            if not found:
                return Page()
            newer, older = Anchor("newer", found[0][0]), Anchor("older", found[-1][0])
            at_the_end = len(found) < size and (anchor is None or anchor.side == "older")
            more = not at_the_end and bool(self._select(filters, 1, older))
        calls = tuple(Call._make(call) for _, *call in found)
        return Page(calls, newer, older if more else None)

    def _select(
        self, filters: Sequence[Filter], size: int, anchor: Anchor | None
    ) -> list[tuple[Any, ...]]:
        conditions = [f'"{each.column}" {each.operator} ?' for each in filters]
        values = [each.value for each in filters]
        backwards = anchor is not None and anchor.side == "newer"
        if anchor is not None:
            conditions.append("seq > ?" if backwards else "seq < ?")
            values.append(anchor.seq)
        where, order = " AND ".join(conditions) or "true", "ASC" if backwards else "DESC"
        found = self._rows(f"{_SELECT} WHERE {where} ORDER BY seq {order} LIMIT ?", (*values, size))
        return found[::-1] if backwards else found

    # Callbacks

    def claim_callbacks(self, count: int, seconds: float) -> list[Callback]:
        """Claim up to `count` due callbacks for `seconds` of real time.

        A callback that is not settled in that time is due again.
        """
        query = f"{_SELECT_CALLBACK} WHERE {_IS_DUE} AND coalesce(claimed, 0) <= ?"
        with self.transaction() as now:
            real = time.time()
            found = self._callbacks(f"{query} ORDER BY due, id LIMIT ?", (now, real, count))
            claims = [(now, real + seconds, callback.id) for callback in found]
            self._connection.executemany(_CLAIM, claims)
        return [callback._replace(attempts=callback.attempts + 1) for callback in found]

    def settle_callback(self, callback: Callback, outcome: str, pause: float | None) -> None:
        """Record the outcome of an attempt, and the pause before the next one, None for none."""
        with self.transaction():
            self._connection.execute(_SETTLE, (outcome, pause, callback.id))
            self._settled.notify_all()

    def wait_for_callbacks(self, seconds: float) -> bool:
        """Wait until no callback is due. Return False if one still is after `seconds`."""
        with self._settled:
            return self._settled.wait_for(lambda: not self._has_due_callback(), seconds)

    def _has_due_callback(self) -> bool:
        with self.transaction() as now:
            return bool(self._rows(f"{_SELECT_CALLBACK} WHERE {_IS_DUE} LIMIT 1", (now,)))

    def latest_callbacks(self, count: int) -> list[Callback]:
        """Return the latest callbacks, newest first."""
        return self._callbacks(f"{_SELECT_CALLBACK} ORDER BY id DESC LIMIT ?", (count,))

    def _callbacks(self, query: str, values: Sequence[Value]) -> list[Callback]:
        return [
            Callback(id_, sequence, status, Call._make(json.loads(call)), *attempts)
            for id_, sequence, status, call, *attempts in self._rows(query, values)
        ]

    # The database

    def _advance(self) -> None:
        late = self._rows(f"{_SELECT} WHERE due <= ? ORDER BY due, seq", (self._now,))
        self._write(_UPDATE, [Call._make(row[1:]) for row in late])

    def _write(self, statement: str, calls: Iterable[Call]) -> None:
        """Write calls in their present state, and a callback for each event until now."""
        events: list[CallEvent] = []

        def rows() -> Generator[tuple[Value, ...]]:
            for call in calls:
                present, passed = advanced(call, self._now)
                events.extend(passed)
                yield (*present, due(present))

        self._connection.executemany(statement, rows())
        events.sort(key=lambda event: event.call.updated)
        callbacks = [(call.sid, status, json.dumps(call), call.updated) for status, call in events]
        self._connection.executemany(_INSERT_CALLBACK, callbacks)

    def _rows(self, query: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _number(self, query: str) -> float:
        """Return the number that a query finds, 0 for NULL."""
        return self._rows(query)[0][0] or 0

    def _prepare(self) -> None:
        self._enable_wal()
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._require_this_version()
            for statement in _SCHEMA:
                self._connection.execute(statement)

    # SQLite does not wait when two connections enable WAL for a new file at the same time
    @retry(
        retry=retry_if_exception_message("database is locked"),
        stop=stop_after_delay(PATIENCE),
        wait=wait_random(0, 0.05),
        reraise=True,
    )
    def _enable_wal(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")

    def _require_this_version(self) -> None:
        if self._number("PRAGMA user_version") != _VERSION:
            if self._rows("SELECT 1 FROM sqlite_master"):
                raise sqlite3.DatabaseError("the file is not an emulator database of this version")
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")
