"""The SQLite database: its tables, and transactions in which every call is up to date.

No timer moves a call on. Whoever opens a transaction first advances the calls that are due, so
that a filter on the status is plain SQL.
"""

import sqlite3
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from threading import RLock

from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from calls_mcp.emulator.calls import Call
from calls_mcp.emulator.clock import Clock
from calls_mcp.emulator.lifecycle import Event, advanced, due

PATIENCE = 30  # seconds for another process's transaction to end

_VERSION = 3
_CONVERTIBLE = 2
_LIVE = "status IN ('queued', 'ringing', 'in-progress')"
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
INSERT = f"INSERT INTO calls ({_COLUMNS}, due) VALUES ({_MARKS})"  # noqa: S608 - our own column names
REPLACE = f"UPDATE calls SET ({_COLUMNS}, due) = ({_MARKS}) WHERE sid = ?1"  # noqa: S608 - likewise
SELECT = f"SELECT seq, {_COLUMNS} FROM calls"  # noqa: S608 - likewise
_TELL = """INSERT INTO callbacks (sid, sequence, status, at, url, method, "to", from_, direction,
    answered_by, duration, due)
    VALUES (?1, (SELECT count(*) FROM callbacks WHERE sid = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8,
    ?9, ?10, ?3)"""

Value = str | float | None


def _is_busy(error: BaseException) -> bool:
    return (
        isinstance(error, sqlite3.OperationalError)
        and error.sqlite_errorcode == sqlite3.SQLITE_BUSY
    )


class Database:
    """One SQLite connection, safe to use from threads; a file is safe to use from processes.

    Raises:
        sqlite3.Error: It cannot be opened, or holds something else.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._clock = clock
        self._lock = RLock()
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
            late = self.rows(f"{SELECT} WHERE due <= ? ORDER BY due, seq", (now,))
            self.write_calls(REPLACE, [Call._make(row[1:]) for row in late], now)
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
            self._convert()
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

    def _convert(self) -> None:
        version = self.number("PRAGMA user_version")
        if version == _VERSION:
            return
        if version == _CONVERTIBLE:
            self._drop_triggers_and_indexes()
            self.write("ALTER TABLE calls ADD COLUMN due")
            self.write(f"UPDATE calls SET due = 0 WHERE {_LIVE} OR price IS NULL")  # noqa: S608 - our own words
        elif self.rows("SELECT 1 FROM sqlite_master"):
            raise sqlite3.DatabaseError("it holds other tables, or those of another version")
        self.write(f"PRAGMA user_version = {_VERSION}")

    def _drop_triggers_and_indexes(self) -> None:
        kinds = "type IN ('trigger', 'index') AND sql IS NOT NULL"
        for kind, name in self.rows(f"SELECT type, name FROM sqlite_master WHERE {kinds}"):  # noqa: S608 - our own words
            self.write(f"DROP {kind} {name}")

    @contextmanager
    def _transaction(self) -> Generator[None]:
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield


def _told(event: Event) -> tuple[Value, ...]:
    status, call = event
    to_whom = call.updated, call.callback_url, call.callback_method, call.to, call.from_
    return (call.sid, status, *to_whom, call.direction, call.answered_by, call.duration)
