"""Counters in the store's SQLite file.

What was taken and who has entered are rows of one table, which count until they lapse.
"""

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, cast

from limits.aio.storage import MovingWindowSupport, Storage

from calls_mcp.storage.database import Database
from calls_mcp.storage.unavailable import StoreUnavailable, Unrecorded
from calls_mcp.store.counters import Counters, Full, Limit, Share, place

_MARK = "INSERT INTO marks (key, text, until) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING"


class SqliteWindows(Storage, MovingWindowSupport):
    """A storage for the moving windows of `limits`, and for no other strategy of it."""

    STORAGE_SCHEME = None

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        super().__init__()
        self._database = database
        self._clock = clock

    @property
    def base_exceptions(self) -> type[Exception]:
        """The only failure that can come from here."""
        return StoreUnavailable

    async def acquire_all(self, shares: Sequence[Share]) -> int | None:
        """Take all shares, or none: then the index of one for which there is no room."""
        taken = partial(_take, shares, secrets.token_urlsafe(9), self._clock())
        full = await self._database.run(taken)
        return None if full is None else full.index

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Take `amount` from a window of `expiry` seconds, if it has room."""
        return await self.acquire_all([Share(key, limit, expiry, amount)]) is None

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest was taken that still counts, and how many do."""
        del limit
        query = "SELECT min(at), count(*) FROM entries WHERE key = ? AND at > ?"
        now = self._clock()
        row = await self._database.look(query, key, now - expiry)
        oldest, count = cast("tuple[float | None, int]", row)
        return (now if oldest is None else oldest, count)

    async def check(self) -> bool:
        """Whether the file can be read."""
        return await self._database.look("SELECT count(*) FROM entries") is not None

    async def clear(self, key: str) -> None:
        """Forget what was taken from one window."""
        await self._database.run(lambda db: db.execute("DELETE FROM entries WHERE key = ?", (key,)))

    async def reset(self) -> int | None:
        """Forget all that was taken or entered; how much that was."""
        return await self._database.run(lambda db: db.execute("DELETE FROM entries").rowcount)

    async def incr(self, key: str, expiry: int, amount: int = 1) -> NoReturn:
        """Not offered: a fixed window's."""
        raise NotImplementedError

    async def get(self, key: str) -> NoReturn:
        """Not offered: a fixed window's."""
        raise NotImplementedError

    async def get_expiry(self, key: str) -> NoReturn:
        """Not offered: a fixed window's."""
        raise NotImplementedError


class SqliteCounters(Counters):
    """`Counters` for the processes that share an SQLite file."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._windows = SqliteWindows(database, clock)
        super().__init__(self._windows, clock)
        self._database = database

    async def leave(self, limits: Sequence[Limit], entry: str) -> None:
        """Give up an entry, if it still counts."""
        delete = "DELETE FROM entries WHERE key = ? AND entry = ?"
        entries = [(place(limit), f"{entry}.0") for limit in limits]
        await self._database.run(lambda db: db.executemany(delete, entries), Unrecorded)

    async def inside(self, limit: Limit) -> Sequence[str]:
        """The entries that count against a limit now, those that lapse first first."""
        query = "SELECT entry FROM entries WHERE key = ? AND until > ? ORDER BY until"
        terms, now = place(limit), self._clock()
        rows = await self._database.run(lambda db: db.execute(query, (terms, now)).fetchall())
        return [str(entry).removesuffix(".0") for (entry,) in rows]

    async def _acquire_all(self, shares: Sequence[Share]) -> int | None:
        return await self._windows.acquire_all(shares)

    async def _enter(self, limits: Sequence[Limit], entry: str) -> Full | None:
        shares = [Share(place(limit), limit.amount, limit.seconds) for limit in limits]
        return await self._database.run(partial(_take, shares, entry, self._clock()))

    async def _mark(self, key: str, text: str, seconds: float) -> bool:
        now = self._clock()

        def mark(db: sqlite3.Connection) -> bool:
            db.execute("DELETE FROM marks WHERE until <= ?", (now,))
            return db.execute(_MARK, (key, text, now + seconds)).rowcount == 1

        return await self._database.run(mark)

    async def _unmark(self, key: str, text: str) -> bool:
        delete = "DELETE FROM marks WHERE key = ? AND text = ? AND until > ?"
        terms = key, text, self._clock()
        work = partial(_changed, delete, terms)
        return await self._database.run(work, Unrecorded) == 1

    async def _marked(self, key: str) -> tuple[str, float] | None:
        query = "SELECT text, until FROM marks WHERE key = ? AND until > ?"
        row = await self._database.look(query, key, self._clock())
        return cast("tuple[str, float] | None", row)


def _changed(statement: str, terms: Sequence[str | float], db: sqlite3.Connection) -> int:
    return db.execute(statement, terms).rowcount


def _take(shares: Sequence[Share], entry: str, now: float, db: sqlite3.Connection) -> Full | None:
    """Write down all shares, or none: then where there is no room."""
    db.execute("DELETE FROM entries WHERE until <= ?", (now,))
    query = "SELECT count(*), min(until) FROM entries WHERE key = ?"
    for index, share in enumerate(shares):
        row = db.execute(query, (share.key,)).fetchone()
        count, until = cast("tuple[int, float | None]", row)
        if count + share.amount > share.limit:
            return Full(index, now + share.seconds if until is None else until)
    db.executemany(
        "INSERT INTO entries (key, entry, at, until) VALUES (?, ?, ?, ?)",
        [
            (share.key, f"{entry}.{number}", now, now + share.seconds)
            for share in shares
            for number in range(share.amount)
        ],
    )
    return None
