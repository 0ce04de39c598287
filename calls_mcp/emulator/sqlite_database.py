"""The emulator's SQLite database: one connection for all of its tables, and pages of them."""

import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from calls_mcp.emulator.clock import Clock

PATIENCE = 5  # seconds to wait for another emulator to close the file

_VERSION = 7

Value = str | float | None
Row = tuple[Any, ...]
Item = TypeVar("Item")


class Database:
    """A connection that several threads can use, to a file that no other process can use.

    Attributes:
        lock: Held during each transaction.
        now: The time of the present transaction.

    Raises:
        sqlite3.Error: The file cannot be opened, has other tables, or is in use.
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

    def _prepare(self, schema: Iterable[str]) -> None:
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._require_this_version()
            for statement in schema:
                self._connection.execute(statement)

    def _require_this_version(self) -> None:
        if self.number("PRAGMA user_version") != _VERSION:
            if self.rows("SELECT 1 FROM sqlite_master"):
                raise sqlite3.DatabaseError("the file is not an emulator database of this version")
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")


# Pages: neighboring rows, newest first


class Filter(NamedTuple):
    """A condition on the listed rows, such as `started >= 1893499200.0`."""

    column: str
    operator: Literal["=", "<", "<=", ">="]
    value: str | float


class Anchor(NamedTuple):
    """A position in the list, next to the row with this sequence number."""

    side: Literal["older", "newer"]
    seq: int


class Page(NamedTuple, Generic[Item]):
    """Neighboring items of the list, newest first.

    Attributes:
        items: The items.
        newer: The position before the first of them, None if the page is empty.
        older: The position after the last of them, None if no older item follows.
    """

    items: tuple[Item, ...] = ()
    newer: Anchor | None = None
    older: Anchor | None = None


def read_page(
    database: Database, select: str, filters: Sequence[Filter], size: int, anchor: Anchor | None
) -> Page[Row]:
    """Return the rows that match all filters: the newest ones, or those next to the anchor.

    Args:
        database: The database.
        select: The statement that selects a table's rows, with the column `seq` first. The rows
            are returned without it.
        filters: The conditions that all rows meet.
        size: The maximum number of rows.
        anchor: A position in the list, None for its start.
    """
    with database.transaction():
        found = _select(database, select, filters, size, anchor)
        if not found:
            return Page()
        newer, older = Anchor("newer", found[0][0]), Anchor("older", found[-1][0])
        at_the_end = len(found) < size and (anchor is None or anchor.side == "older")
        more = not at_the_end and bool(_select(database, select, filters, 1, older))
    return Page(tuple(row[1:] for row in found), newer, older if more else None)


def _select(
    database: Database, select: str, filters: Sequence[Filter], size: int, anchor: Anchor | None
) -> list[Row]:
    conditions = [f'"{each.column}" {each.operator} ?' for each in filters]
    values = [each.value for each in filters]
    backwards = anchor is not None and anchor.side == "newer"
    if anchor is not None:
        conditions.append("seq > ?" if backwards else "seq < ?")
        values.append(anchor.seq)
    where, order = " AND ".join(conditions) or "true", "ASC" if backwards else "DESC"
    found = database.rows(f"{select} WHERE {where} ORDER BY seq {order} LIMIT ?", (*values, size))
    return found[::-1] if backwards else found
