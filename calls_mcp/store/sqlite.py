"""A store in an SQLite file, shared by the processes of one machine."""

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeVar, cast

import anyio
from anyio import CapacityLimiter, to_thread

from calls_mcp.errors import ConfigurationError
from calls_mcp.outcome import Outcome
from calls_mcp.store.record import Fate, Keeper, Keeping, Pending, pack, unheard, unpack
from calls_mcp.store.sqlite_docket import CASES, WAITING, SqliteDocket
from calls_mcp.store.unavailable import StoreUnavailable, Unrecorded, reaching

if TYPE_CHECKING:
    from calls_mcp.store.counters import Counters

_T = TypeVar("_T")

_LAYOUT = 3
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS confirmations (
    identifier TEXT PRIMARY KEY,
    principal TEXT NOT NULL,
    pending TEXT NOT NULL,
    forget_at REAL NOT NULL,
    claimed_at REAL,
    outcome TEXT
);
CREATE INDEX IF NOT EXISTS confirmations_to_forget ON confirmations (forget_at);
CREATE INDEX IF NOT EXISTS confirmations_unused ON confirmations (principal)
    WHERE claimed_at IS NULL;
CREATE TABLE IF NOT EXISTS entries (
    key TEXT NOT NULL,
    entry TEXT NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (key, entry)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_to_forget ON entries (until);
CREATE TABLE IF NOT EXISTS marks (
    key TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS marks_to_forget ON marks (until);
{CASES}{WAITING}"""

_FORGET_THE_OLDEST_UNUSED = """
DELETE FROM confirmations WHERE rowid IN (
    SELECT rowid FROM confirmations WHERE principal = ? AND claimed_at IS NULL
    ORDER BY rowid DESC LIMIT -1 OFFSET ?
)
"""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1  # seconds between two looks for an outcome


class Database:
    """One connection, used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queue = CapacityLimiter(1)
        # A task that is cancelled leaves the queue at once, its thread when the work is done.
        self._in_use = Lock()

    async def run(
        self,
        work: Callable[[sqlite3.Connection], _T],
        meaning: type[StoreUnavailable] = StoreUnavailable,
    ) -> _T:
        """What `work` returns, done in a thread, as one transaction; a failure has this `meaning`.

        The transaction holds the write lock from its beginning, against every process.
        """
        with reaching((sqlite3.Error, OSError), meaning):
            return await to_thread.run_sync(self._transact, work, limiter=self._queue)

    async def look(self, query: str, *parameters: str | float) -> tuple[object, ...] | None:
        """The first row of `query`, which changes nothing and waits for no writer."""
        return next(iter(await self.look_at_all(query, *parameters)), None)

    async def look_at_all(
        self, query: str, *parameters: str | float
    ) -> Sequence[tuple[object, ...]]:
        """The rows of `query`, which changes nothing and waits for no writer."""
        with reaching((sqlite3.Error, OSError), StoreUnavailable):
            return await to_thread.run_sync(self._all, query, parameters, limiter=self._queue)

    async def aclose(self) -> None:
        """Close the connection."""
        await to_thread.run_sync(self._close, limiter=self._queue)

    def _transact(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        with self._in_use, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            return work(self._connection)

    def _all(self, query: str, parameters: tuple[str | float, ...]) -> Sequence[tuple[object, ...]]:
        with self._in_use:
            return self._connection.execute(query, parameters).fetchall()

    def _close(self) -> None:
        with self._in_use:
            self._connection.close()


async def open_sqlite(path: str, keeping: Keeping) -> "SqliteStore":
    """The store in the file at `path`, made if there is none.

    Raises:
        ConfigurationError: The file can't be used.
    """
    try:
        connection = await to_thread.run_sync(_connect, Path(path), keeping.busy)
    except (sqlite3.Error, OSError) as unusable:
        raise ConfigurationError(
            f"CALLS_MCP_STATE_URL: the file {path} can't be used: {unusable}. Its folder must "
            "exist, and both must be writable."
        ) from unusable
    return SqliteStore(Database(connection), keeping)


def _connect(path: Path, busy: float) -> sqlite3.Connection:
    # It will hold phone numbers, so it is nobody else's to read. One that is there is not opened:
    # closing it again would drop the locks that SQLite has on it elsewhere in this process.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path, busy, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    (layout,) = cast("tuple[int]", connection.execute("PRAGMA user_version").fetchone())
    if layout > _LAYOUT:
        raise sqlite3.DatabaseError("it was written by another version of calls-mcp")
    if layout < _LAYOUT:  # each only added to the one before
        connection.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_LAYOUT}; COMMIT;"
        )


class SqliteStore(Keeper):
    """A `Store` in an SQLite file."""

    kind: Literal["sqlite"] = "sqlite"

    def __init__(self, database: Database, keeping: Keeping) -> None:
        super().__init__(keeping)
        self._database = database
        self.docket = SqliteDocket(database, keeping)

    async def put(self, identifier: str, pending: Pending) -> None:
        """Keep a new question, and forget what is old or too much."""
        await self._database.run(partial(self._put, identifier, pending))

    async def get(self, identifier: str) -> Pending | None:
        """The question of this identifier, if it is still kept."""
        query = "SELECT pending FROM confirmations WHERE identifier = ?"
        row = await self._database.look(query, identifier)
        return unpack(cast("str", row[0])) if row else None

    async def claim(self, identifier: str) -> bool:
        """Take the one right to act on it."""
        update = (
            "UPDATE confirmations SET claimed_at = ? WHERE identifier = ? AND claimed_at IS NULL"
        )
        claimed = (self._keeping.clock(), identifier)
        return await self._database.run(lambda db: db.execute(update, claimed).rowcount == 1)

    async def settle(self, identifier: str, outcome: Outcome) -> None:
        """Record what became of it; those who wait look for it now and then."""
        update = "UPDATE confirmations SET outcome = ? WHERE identifier = ? AND outcome IS NULL"
        settled = (json.dumps(outcome), identifier)
        await self._database.run(lambda db: db.execute(update, settled), Unrecorded)

    async def ping(self) -> None:
        """Return if the file can be written to."""
        await self._database.run(lambda db: db.execute("SELECT 1 FROM confirmations LIMIT 1"))

    async def aclose(self) -> None:
        """Close the file."""
        await self._database.aclose()

    def _make_counters(self) -> "Counters":
        from calls_mcp.store.sqlite_counters import SqliteCounters  # noqa: PLC0415

        return SqliteCounters(self._database, self._keeping.clock)

    async def fate(self, identifier: str) -> Fate | None:
        """What is known of it now."""
        query = "SELECT claimed_at, outcome FROM confirmations WHERE identifier = ?"
        row = await self._database.look(query, identifier)
        if row is None:
            return None
        claimed_at, outcome = cast("tuple[float | None, str | None]", row)
        return Fate(claimed_at, json.loads(outcome) if outcome else None)

    async def _settled(self, identifier: str) -> Outcome:
        pause = _FIRST_PAUSE
        while (fate := await self.fate(identifier)) is not None:
            if fate.outcome is not None:
                return fate.outcome
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return unheard()

    def _put(self, identifier: str, pending: Pending, db: sqlite3.Connection) -> None:
        keeping, owner = self._keeping, pending.owner
        db.execute("DELETE FROM confirmations WHERE forget_at <= ?", (keeping.clock(),))
        db.execute(
            "INSERT INTO confirmations (identifier, principal, pending, forget_at) "
            "VALUES (?, ?, ?, ?) ON CONFLICT (identifier) DO NOTHING",
            (identifier, owner, pack(pending), keeping.forget_at(pending)),
        )
        db.execute(_FORGET_THE_OLDEST_UNUSED, (owner, keeping.each))
