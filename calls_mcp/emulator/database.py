"""One SQLite connection, and transactions in which every call is up to date.

No timer moves a call on. Whoever looks first brings all calls up to the present with a few
updates on indexes (`ADVANCE`), so that a filter on the status is plain SQL.
"""

import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import TypeVar, cast

from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from calls_mcp.emulator.clock import Clock
from calls_mcp.emulator.tables import ADVANCE, PRICE_DELAY, PRICE_PER_MINUTE, SCHEMA, VERSION

PATIENCE = 30  # seconds for another process's transaction to end

Value = str | float | None
Row = TypeVar("Row")


def _is_busy(error: BaseException) -> bool:
    return (
        isinstance(error, sqlite3.OperationalError)
        and error.sqlite_errorcode == sqlite3.SQLITE_BUSY
    )


class Database:
    """A file of calls, or calls in memory. Safe to use from threads, and a file from processes.

    Raises:
        sqlite3.Error: It can't be opened, or holds something else.
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
        """Let go of the database; what is in a file stays there."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def present(self) -> Generator[float]:
        """A transaction in which every call is up to date; yields the time."""
        with self._transaction():
            now = self._clock()
            self.advance(now)
            yield now

    def advance(self, now: float) -> None:
        """Let what was planned until now happen; inside a transaction."""
        values = {"now": now, "delay": PRICE_DELAY, "rate": PRICE_PER_MINUTE}
        for statement in ADVANCE:
            self._connection.execute(statement, values)

    def rows(
        self, query: str, values: Sequence[Value], make: Callable[[tuple[object, ...]], Row]
    ) -> list[Row]:
        """What a query finds, row by row."""
        with self._lock:
            found = self._connection.execute(query, values).fetchall()
        return [make(row) for row in cast("list[tuple[object, ...]]", found)]

    def number(self, query: str, values: Sequence[Value] = ()) -> float | None:
        """The one number that a query finds."""
        with self._lock:
            (row,) = self._connection.execute(query, values).fetchall()
        return cast("tuple[float | None]", row)[0]

    def write(self, statement: str, values: Sequence[object] = ()) -> int:
        """Change something; how many rows it was."""
        with self._lock:
            return self._connection.execute(statement, values).rowcount

    def write_all(self, statement: str, values: Iterable[Sequence[object]]) -> None:
        """Change something once for each of the values."""
        with self._lock:
            self._connection.executemany(statement, values)

    def _prepare(self) -> None:
        self._keep_a_log()
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            self._require_version()
            for statement in SCHEMA:
                self._connection.execute(statement)

    # SQLite does not wait its turn when two connections turn a new file's log on at once
    @retry(
        retry=retry_if_exception(_is_busy),
        stop=stop_after_delay(PATIENCE),
        wait=wait_random(0, 0.05),
        reraise=True,
    )
    def _keep_a_log(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")

    def _require_version(self) -> None:
        version = self.number("PRAGMA user_version")
        if version == VERSION:
            return
        if self.number("SELECT count(*) FROM sqlite_master"):
            raise sqlite3.DatabaseError("it holds other tables, or those of another version")
        self.write(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Generator[None]:
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
