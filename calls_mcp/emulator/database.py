"""The emulator's SQLite database: one connection and one transaction for all of its tables."""

import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tenacity import retry, retry_if_exception_message, stop_after_delay, wait_random

from calls_mcp.emulator.clock import Clock

PATIENCE = 30  # seconds for another process's transaction to end

_VERSION = 6

Value = str | float | None
Row = tuple[Any, ...]


class Database:
    """A connection that several threads can use, to a file that several processes can use.

    Attributes:
        lock: Held during each transaction.
        now: The time of the present transaction.

    Raises:
        sqlite3.Error: The file cannot be opened, or has other tables.
    """

    def __init__(
        self, path: str, clock: Clock, schema: Iterable[str], begun: Callable[[], bool]
    ) -> None:
        """Open a file, or `:memory:`.

        Args:
            path: The file.
            clock: Returns the time of each transaction.
            schema: The statements that create the tables where they don't exist.
            begun: Called at the start of each transaction; returns whether it changed anything.
        """
        self.lock = threading.RLock()
        self._clock = clock
        self._begun = begun
        self.now = 0.0
        self._data_version = 0.0
        self._connection = sqlite3.connect(
            path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(schema)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection. A file keeps its contents."""
        with self.lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Generator[float]:
        """Open or join a transaction of this thread. Yield its time."""
        with self.lock:
            if self._connection.in_transaction:
                yield self.now
                return
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self.now = self._clock()
                if self._begun():  # kept even if the rest of the transaction fails
                    self._connection.commit()
                    self._connection.execute("BEGIN IMMEDIATE")
                yield self.now

    def execute(
        self, statement: str, rows: Iterable[Sequence[Value] | Mapping[str, Value]] = ((),)
    ) -> None:
        """Execute a statement with each of these rows."""
        with self.transaction():
            self._connection.executemany(statement, rows)

    def rows(self, query: str, values: Sequence[Value] = ()) -> list[Row]:
        """Return what a query finds."""
        with self.lock:
            return self._connection.execute(query, values).fetchall()

    def number(self, query: str) -> float:
        """Return the number that a query finds, 0 for NULL."""
        return self.rows(query)[0][0] or 0

    def changed_elsewhere(self) -> bool:
        """Return whether another connection has changed the file since the last time."""
        last, self._data_version = self._data_version, self.number("PRAGMA data_version")
        return self._data_version != last

    def _prepare(self, schema: Iterable[str]) -> None:
        self._enable_wal()
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._require_this_version()
            for statement in schema:
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
        if self.number("PRAGMA user_version") != _VERSION:
            if self.rows("SELECT 1 FROM sqlite_master"):
                raise sqlite3.DatabaseError("the file is not an emulator database of this version")
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")
