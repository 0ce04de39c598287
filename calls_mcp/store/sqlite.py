"""A store in an SQLite file, shared by the processes of one machine."""

import sqlite3
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import anyio
from anyio import to_thread

from calls_mcp.errors import ConfigurationError
from calls_mcp.outcome import Outcome
from calls_mcp.storage.database import Database
from calls_mcp.storage.unavailable import Unrecorded
from calls_mcp.store.record import Fate, Keeper, Keeping, Pending, pack, unheard, unpack
from calls_mcp.store.sqlite_docket import SqliteDocket

if TYPE_CHECKING:
    from calls_mcp.store.counters import Counters

_FORGET_THE_OLDEST_UNUSED = """
DELETE FROM confirmations WHERE rowid IN (
    SELECT rowid FROM confirmations WHERE principal = ? AND claimed_at IS NULL
    ORDER BY rowid DESC LIMIT -1 OFFSET ?
)
"""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1  # seconds between two looks for an outcome


async def open_sqlite(path: str, keeping: Keeping) -> "SqliteStore":
    """The store in the file at `path`, made if there is none.

    Raises:
        ConfigurationError: The file can't be used.
    """
    database = Database(Path(path), keeping.busy)
    try:
        await to_thread.run_sync(database.write, _nothing)
    except (sqlite3.Error, OSError) as unusable:
        await database.aclose()
        raise ConfigurationError(
            f"CALLS_MCP_STATE_URL: the file {path} can't be used: {unusable}. Its folder must "
            "exist, and both must be writable."
        ) from unusable
    return SqliteStore(database, keeping)


def _nothing(_: sqlite3.Connection) -> None:
    """Only see that the file can be written."""


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
        settled = (outcome.to_json(), identifier)
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
        return Fate(claimed_at, Outcome.model_validate_json(outcome) if outcome else None)

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
