"""The account's calls and the callbacks about them, kept in SQLite.

No timer moves a call on. Whoever opens a transaction first advances the calls that are due, so
that a filter on the status is plain SQL.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from calls_mcp.emulator.calls import Call, Callback
from calls_mcp.emulator.clock import Clock
from calls_mcp.emulator.lifecycle import Event, advanced, due, following

PAUSES = (1, 5, 25)
"""Seconds between the attempts at one delivery; the attempt after the last pause is the last."""
PATIENCE = 30  # seconds for another process's transaction to end

_VERSION = 3
_COLUMNS = ", ".join(f'"{name}"' for name in Call._fields)
_MARKS = ", ".join(f"?{position}" for position in range(1, len(Call._fields) + 2))

_TABLES = (
    f"""CREATE TABLE IF NOT EXISTS calls (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    {_COLUMNS},
    due -- when the call changes next by itself, NULL if it never does
)""",
    """CREATE TABLE IF NOT EXISTS callbacks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- not reused after a reset: it may still be under way
    sid, sequence, status, at, url, method, "to", from_, direction, answered_by, duration,
    due, -- when it is to be sent, NULL once it is settled
    held, -- until when, in real time, somebody is sending it
    attempts DEFAULT 0,
    outcome -- the status it was answered with, or why it was not sent
)""",
)
_INDEXES = (
    "CREATE UNIQUE INDEX IF NOT EXISTS calls_sid ON calls (sid)",
    "CREATE INDEX IF NOT EXISTS calls_due ON calls (due) WHERE due IS NOT NULL",
    "CREATE UNIQUE INDEX IF NOT EXISTS callbacks_sid ON callbacks (sid, sequence)",
    "CREATE INDEX IF NOT EXISTS callbacks_due ON callbacks (due) WHERE due IS NOT NULL",
)
_INSERT = f"INSERT INTO calls ({_COLUMNS}, due) VALUES ({_MARKS})"  # noqa: S608 - our own column names
_REPLACE = f"UPDATE calls SET ({_COLUMNS}, due) = ({_MARKS}) WHERE sid = ?1"  # noqa: S608 - likewise
_SELECT = f"SELECT seq, {_COLUMNS} FROM calls"  # noqa: S608 - likewise
_TELL = """INSERT INTO callbacks (sid, sequence, status, at, url, method, "to", from_, direction,
    answered_by, duration, due)
    VALUES (?1, (SELECT count(*) FROM callbacks WHERE sid = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8,
    ?9, ?10, ?3)"""

_CALLBACK = ", ".join(f'c."{name}"' for name in Callback._fields)
_DUE = f"""SELECT {_CALLBACK} FROM callbacks c WHERE due <= ? AND coalesce(held, 0) <= ?
    AND NOT EXISTS (
        SELECT 1 FROM callbacks earlier
        WHERE earlier.sid = c.sid AND earlier.sequence < c.sequence AND earlier.due IS NOT NULL
    ) ORDER BY due, id LIMIT 100"""  # noqa: S608 - our own column names
_UNSETTLED = f"SELECT EXISTS ({_DUE}) OR EXISTS (SELECT 1 FROM callbacks WHERE held > ?)"  # noqa: S608 - likewise
_LATEST = f"SELECT {_CALLBACK} FROM callbacks c ORDER BY id DESC LIMIT ?"  # noqa: S608 - likewise
_CLAIM = """UPDATE callbacks SET attempts = attempts + 1, due = ?, held = ?
    WHERE id = ? AND attempts = ? AND due IS NOT NULL"""
_SETTLE = "UPDATE callbacks SET outcome = ?, held = NULL, due = iif(?, NULL, due) WHERE id = ?"
_LAST_TURN = """SELECT max(ring_at) FROM calls
    WHERE due IS NOT NULL AND status = 'queued' AND direction = 'outbound-api'"""

Value = str | float | None
Field = Literal["to", "from_", "parent_call_sid", "status", "started", "ended"]


class Criterion(NamedTuple):
    """A condition that the listed calls meet: `started >= 1893499200.0`."""

    field: Field
    operator: Literal["=", "<", "<=", ">="]
    value: str | float


class Anchor(NamedTuple):
    """A place in the list, beside the call with this sequence number."""

    side: Literal["older", "newer"]
    seq: int


class Stretch(NamedTuple):
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


def _is_busy(error: BaseException) -> bool:
    return (
        isinstance(error, sqlite3.OperationalError)
        and error.sqlite_errorcode == sqlite3.SQLITE_BUSY
    )


class _Database:
    """One SQLite connection, safe to use from threads; a file is safe to use from processes.

    Raises:
        sqlite3.Error: It cannot be opened, or holds something else.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def present(self) -> Generator[float]:
        """Open a transaction in which every call is up to date; yields the time."""
        with self._transaction():
            now = self._clock()
            late = self.rows(f"{_SELECT} WHERE due <= ? ORDER BY due, seq", (now,))
            self.write_calls(_REPLACE, [Call._make(row[1:]) for row in late], now)
            yield now

    def rows(self, query: str, values: Sequence[Value] = ()) -> list[tuple[object, ...]]:
        """Return what a query finds."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def number(self, query: str, values: Sequence[Value] = ()) -> float:
        """Return the one number that a query finds, 0 for NULL."""
        ((number,),) = self.rows(query, values)
        return number if isinstance(number, (int, float)) else 0

    def write(self, statement: str, values: Sequence[Value] = ()) -> int:
        """Change something; returns the number of rows."""
        with self._lock:
            return self._connection.execute(statement, values).rowcount

    def write_calls(self, statement: str, calls: Iterable[Call], now: float) -> None:
        """Write the calls as they are now, and what is to be told about them."""
        events: list[Event] = []

        def rows() -> Generator[tuple[Value, ...]]:
            for call in calls:
                present, told = advanced(call, now)
                events.extend(told)
                yield (*present, due(present))

        self._connection.executemany(statement, rows())
        events.sort(key=lambda event: event.call.updated)
        self._connection.executemany(_TELL, map(_told, events))

    def _prepare(self) -> None:
        self._keep_a_log()
        self.write("PRAGMA synchronous = NORMAL")
        with self._transaction():
            self._require_this_version()
            for statement in (*_TABLES, *_INDEXES):
                self.write(statement)

    # SQLite does not wait its turn when two connections turn a new file's log on at once
    @retry(
        retry=retry_if_exception(_is_busy),
        stop=stop_after_delay(PATIENCE),
        wait=wait_random(0, 0.05),
        reraise=True,
    )
    def _keep_a_log(self) -> None:
        self.write("PRAGMA journal_mode = WAL")

    def _require_this_version(self) -> None:
        if self.number("PRAGMA user_version") != _VERSION:
            if self.rows("SELECT 1 FROM sqlite_master"):
                raise sqlite3.DatabaseError("it holds other tables, or those of another version")
            self.write(f"PRAGMA user_version = {_VERSION}")

    @contextmanager
    def _transaction(self) -> Generator[None]:
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield


def _told(event: Event) -> tuple[Value, ...]:
    status, call = event
    to_whom = call.updated, call.callback_url, call.callback_method, call.to, call.from_
    return (call.sid, status, *to_whom, call.direction, call.answered_by, call.duration)


class Outbox:
    """The callbacks. One that was claimed and never settled is due again after its claim."""

    def __init__(self, database: _Database) -> None:
        self._database = database
        self._settled = threading.Condition()

    def due(self) -> list[Callback]:
        """Return what is to be sent now. A call's second event waits for its first."""
        with self._database.present() as now:
            return [Callback._make(row) for row in self._database.rows(_DUE, (now, time.time()))]

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is to be sent now; False if something still is after that time."""
        with self._settled:
            return self._settled.wait_for(lambda: not self._has_work(), seconds)

    def _has_work(self) -> bool:
        with self._database.present() as now:
            return bool(self._database.number(_UNSETTLED, (now, *[time.time()] * 2)))

    def latest(self, count: int) -> list[Callback]:
        """Return the latest events, newest first."""
        return [Callback._make(row) for row in self._database.rows(_LATEST, (count,))]

    def claim(self, callback: Callback, seconds: float) -> bool:
        """Claim it for so many seconds of real time; False if another process was faster."""
        with self._database.present() as now:
            pause = PAUSES[min(callback.attempts, len(PAUSES) - 1)]
            claim = now + pause, time.time() + seconds, callback.id, callback.attempts
            return self._database.write(_CLAIM, claim) == 1

    def settle(self, callback: Callback, outcome: str, *, final: bool) -> None:
        """Record how an attempt went; a final one is not repeated, nor is the last."""
        over = final or callback.attempts >= len(PAUSES)
        self._database.write(_SETTLE, (outcome, over, callback.id))
        with self._settled:
            self._settled.notify_all()


class CallStore:
    """The account's calls, always as they are at the time the clock shows.

    The list is in order of arrival, so a place in it stays where it is while new calls come in.
    It is read backwards from its newest call or from an anchor: a walk over all pages reads the
    table once, whatever it is filtered by, and a rare value costs one pass over it (20 ms for
    100,000 calls).
    Safe to use from several threads, and a file from several processes. What a method has done
    is in the file when it returns.

    Attributes:
        outbox: The callbacks about the calls.

    Raises:
        sqlite3.Error: The file cannot be opened, or holds something else.
    """

    def __init__(self, database: str, clock: Clock) -> None:
        self._database = _Database(database, clock)
        self.outbox = Outbox(self._database)

    def close(self) -> None:
        """Close the database; what is in a file stays there."""
        self._database.close()

    def clear(self) -> None:
        """Forget every call and every callback."""
        with self._database.present():
            self._database.write("DELETE FROM calls")
            self._database.write("DELETE FROM callbacks")

    def count(self) -> int:
        """Return the number of records."""
        return int(self._database.number("SELECT count(*) FROM calls"))

    def get(self, sid: str) -> Call | None:
        """Return the call with this SID, None without one."""
        with self._database.present():
            return self._find(sid)

    def all(self) -> tuple[Call, ...]:
        """Return every call, newest first."""
        return self.stretch((), self.count()).calls

    def latest(self) -> float:
        """Return the time of the latest change of any record, 0 if there are none."""
        return self._database.number("SELECT max(updated) FROM calls")

    def fill(self, calls: Iterable[Call]) -> bool:
        """Append records to an empty list; False if it is not empty."""
        with self._database.present() as now:
            if self._database.number("SELECT EXISTS (SELECT 1 FROM calls)"):
                return False
            self._database.write_calls(_INSERT, calls, now)
            return True

    def add(self, *calls: Call) -> None:
        """Append records to the list; the last one becomes the newest."""
        with self._database.present() as now:
            self._database.write_calls(_INSERT, calls, now)

    def place(
        self, make: Callable[[float, float], tuple[Call, ...]], interval: float
    ) -> tuple[Call, ...]:
        """Append the records of a call that is dialled when its turn comes.

        Args:
            make: Gets the time and the time of the turn, returns the records. If it raises,
                nothing changes.
            interval: Seconds between one call that is dialled and the next.
        """
        with self._database.present() as now:
            calls = make(now, max(now, self._database.number(_LAST_TURN)) + interval)
            self._database.write_calls(_INSERT, calls, now)
            return calls

    def amend(self, sid: str, change: Callable[[Call, float], Call]) -> Call | None:
        """Change a call and, if the account has both ends of it, its other record.

        Args:
            sid: Which call.
            change: Gets the call and the time, returns the changed call. If it raises, nothing
                changes.

        Returns:
            The call afterwards, None without one.
        """
        with self._database.present() as now:
            if (call := self._find(sid)) is None:
                return None
            changed = [change(call, now)]
            if call.peer_sid and (peer := self._find(call.peer_sid)):
                changed.append(following(peer, changed[0]))
            self._database.write_calls(_REPLACE, changed, now)
            return self._find(sid)

    def delete(self, sid: str, check: Callable[[Call], None]) -> bool:
        """Remove a call's record; False without one.

        Args:
            sid: Which call.
            check: Gets the call. If it raises, the record stays.
        """
        with self._database.present():
            if (call := self._find(sid)) is None:
                return False
            check(call)
            self._database.write("DELETE FROM calls WHERE sid = ?", (sid,))
            return True

    def stretch(
        self, criteria: Sequence[Criterion], size: int, anchor: Anchor | None = None
    ) -> Stretch:
        """Return the calls that meet all criteria: the newest ones, or those next to the anchor.

        Args:
            criteria: What the calls have in common.
            size: How many calls at most.
            anchor: A place in the list, None for its top.
        """
        with self._database.present():
            found = self._select(criteria, size, anchor)
            if not found:
                return Stretch()
            newest, oldest = found[0][0], found[-1][0]
            at_the_end = len(found) < size and (anchor is None or anchor.side == "older")
            more = not at_the_end and bool(self._select(criteria, 1, Anchor("older", oldest)))
        return Stretch(tuple(call for _, call in found), newest, oldest, more)

    def _select(
        self, criteria: Sequence[Criterion], size: int, anchor: Anchor | None
    ) -> list[tuple[int, Call]]:
        conditions = [f'"{each.field}" {each.operator} ?' for each in criteria]
        values = [each.value for each in criteria]
        backwards = anchor is not None and anchor.side == "newer"
        if anchor is not None:
            conditions.append("seq > ?" if backwards else "seq < ?")
            values.append(anchor.seq)
        where, order = " AND ".join(conditions) or "true", "ASC" if backwards else "DESC"
        query = f"{_SELECT} WHERE {where} ORDER BY seq {order} LIMIT ?"
        rows = self._database.rows(query, (*values, size))
        found = [(cast("int", seq), Call._make(values)) for seq, *values in rows]
        return found[::-1] if backwards else found

    def _find(self, sid: str) -> Call | None:
        rows = self._database.rows(f"{_SELECT} WHERE sid = ?", (sid,))
        return Call._make(rows[0][1:]) if rows else None
