"""A store in an SQLite database: a file shared by the processes of one machine, or in memory."""

import sqlite3
from collections.abc import Sequence
from functools import partial
from math import inf
from typing import cast

from calls_mcp.errors import StoreUnavailable, Unrecorded
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.records import (
    ApprovalRequest,
    ConfirmationState,
    Exhausted,
    Limit,
    OperatorDecision,
    PendingConfirmation,
    PendingPage,
    Position,
    StorageOptions,
    pending_page,
    unpack_confirmation,
    unpack_decision,
    unpack_outcome,
    unpack_request,
)
from calls_mcp.storage.sqlite_file import Database
from calls_mcp.tools.outcome import Outcome

_START = Position(-inf, "")

_PUT = """
INSERT INTO confirmations (identifier, principal, pending, forget_at) VALUES (?, ?, ?, ?)
ON CONFLICT (identifier) DO NOTHING
"""
_FORGET_OLDEST_UNUSED = """
DELETE FROM confirmations WHERE rowid IN (
    SELECT rowid FROM confirmations WHERE principal = ? AND claimed_at IS NULL
    ORDER BY rowid DESC LIMIT -1 OFFSET ?
)
"""
# If there are too many in all, whoever has most of them loses the oldest.
_FORGET_OF_GREEDIEST = """
DELETE FROM confirmations WHERE rowid = (
    SELECT min(rowid) FROM confirmations
    WHERE (claimed_at IS NULL OR outcome IS NOT NULL)
    AND rowid < (SELECT max(rowid) FROM confirmations)
    GROUP BY principal ORDER BY count(*) DESC LIMIT 1
)
"""
_CLAIM = "UPDATE confirmations SET claimed_at = ? WHERE identifier = ? AND claimed_at IS NULL"
_SETTLE = "UPDATE confirmations SET outcome = ? WHERE identifier = ? AND outcome IS NULL"

_ADD = """
INSERT INTO approval_requests (identifier, owner, request, asked_at, expires_at)
VALUES (?, ?, ?, ?, ?)
"""
_COUNT_PENDING = """
SELECT count(*) FROM approval_requests WHERE owner = ? AND decision IS NULL AND expires_at > ?
"""
_FIND = "SELECT request, decision FROM approval_requests WHERE identifier = ?"
_DECIDE = """
UPDATE approval_requests SET decision = ?
WHERE identifier = ? AND decision IS NULL AND expires_at > ?
"""
_NEWEST = "SELECT request, decision FROM approval_requests ORDER BY asked_at DESC LIMIT ?"
# The index has everything but the requests themselves.
_THESE = (
    "FROM approval_requests INDEXED BY requests_pending WHERE decision IS NULL AND expires_at > ?"
)
_PENDING = f"""
SELECT number, request, each.identifier, each.asked_at
FROM (SELECT count(*) AS number {_THESE}) LEFT JOIN approval_requests AS each ON each.rowid IN (
    SELECT rowid {_THESE} AND (asked_at, identifier) > (?, ?)
    ORDER BY asked_at, identifier LIMIT ?
) ORDER BY each.asked_at, each.identifier
"""  # noqa: S608  # of constants
# A new request has a greater rowid than all that are pending, so no exchange keeps the sum.
_MARK = f"SELECT count(*) || '.' || ifnull(sum(rowid), 0) {_THESE}"

_COUNT = "SELECT count(*), min(until) FROM counts WHERE key = ? AND until > ?"
_TAKE = "INSERT INTO counts (key, entry, until) VALUES (?, ?, ?)"
_NOTE = "INSERT INTO notes (key, text, until) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING"
_FORGET = "DELETE FROM notes WHERE key = ? AND text = ? AND until > ?"


class SqliteStorage(Storage):
    """A `Storage` in an SQLite database."""

    def __init__(self, database: Database, options: StorageOptions) -> None:
        super().__init__(options)
        self.kind = "sqlite" if database.path else "memory"
        self.database = database
        self.where = database.where

    async def put(self, identifier: str, pending: PendingConfirmation) -> None:
        options, owner = self._options, pending.owner
        row = (identifier, owner, pending.pack(), pending.expires_at + options.retention)

        def put(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM confirmations WHERE forget_at <= ?", (options.clock(),))
            db.execute(_PUT, row)
            db.execute(_FORGET_OLDEST_UNUSED, (owner, options.each))
            if _count(db, "SELECT count(*) FROM confirmations") > options.capacity:
                db.execute(_FORGET_OF_GREEDIEST)

        await self.database.run(put)

    async def get(self, identifier: str) -> PendingConfirmation | None:
        query = "SELECT pending FROM confirmations WHERE identifier = ?"
        row = await self.database.look(query, identifier)
        return unpack_confirmation(cast("str", row[0])) if row else None

    async def claim(self, identifier: str) -> bool:
        return await self._changed(_CLAIM, self._options.clock(), identifier) == 1

    async def state(self, identifier: str) -> ConfirmationState | None:
        query = "SELECT claimed_at, outcome FROM confirmations WHERE identifier = ?"
        row = await self.database.look(query, identifier)
        if row is None:
            return None
        claimed_at, outcome = cast("tuple[float | None, str | None]", row)
        return ConfirmationState(claimed_at, unpack_outcome(outcome))

    async def settle(self, identifier: str, outcome: Outcome) -> None:
        await self._changed(_SETTLE, outcome.to_json(), identifier, meaning=Unrecorded)

    async def add_request(self, request: ApprovalRequest, most: int) -> bool:
        now, owner = self._options.clock(), request.owner
        row = (request.identifier, owner, request.pack(), request.asked_at, request.expires_at)
        old = "DELETE FROM approval_requests WHERE expires_at <= ?"

        def add(db: sqlite3.Connection) -> bool:
            db.execute(old, (now - self._options.retention,))
            if _count(db, _COUNT_PENDING, owner, now) >= most:
                return False
            db.execute(_ADD, row)
            return True

        return await self.database.run(add)

    async def find_request(self, identifier: str) -> ApprovalRequest | None:
        return _first(await self.database.look_at_all(_FIND, identifier))

    async def latest_request(self, identifier: str) -> ApprovalRequest | None:
        return _first(
            await self.database.run(lambda db: db.execute(_FIND, (identifier,)).fetchall())
        )

    async def decide(self, identifier: str, decision: OperatorDecision) -> OperatorDecision | None:
        row = (decision.pack(), identifier, self._options.clock())

        def decide(db: sqlite3.Connection) -> str | None:
            db.execute(_DECIDE, row)
            query = "SELECT decision FROM approval_requests WHERE identifier = ?"
            found = db.execute(query, (identifier,)).fetchone() or (None,)
            return cast("tuple[str | None]", found)[0]

        made = await self.database.run(decide)
        return unpack_decision(made) if made else None

    async def newest_requests(self, most: int) -> Sequence[ApprovalRequest]:
        return _requests(await self.database.look_at_all(_NEWEST, most))

    async def pending_requests(self, most: int, after: Position | None = None) -> PendingPage:
        now, start = self._options.clock(), after or _START
        parameters = (now, now, start.asked_at, start.identifier, most + 1)
        found = await self.database.look_at_all(_PENDING, *parameters)
        rows = cast("list[tuple[int, str | None, str, float]]", found)
        requests = [(text, identifier, at) for _, text, identifier, at in rows if text is not None]
        return pending_page(requests, most, rows[0][0] if rows else 0)

    async def pending_mark(self) -> str:
        row = await self.database.look(_MARK, self._options.clock())
        return cast("str", row[0]) if row else "0.0"

    async def exhausted(self, limits: Sequence[Limit]) -> Exhausted | None:
        now = self._options.clock()
        for limit in limits:
            row = await self.database.look(_COUNT, f"hits/{limit.place}", now)
            if full := _exhausted(limit, row, now):
                return full
        return None

    async def release(self, limits: Sequence[Limit], reservation: str) -> None:
        rows = [(f"reserved/{limit.place}", reservation) for limit in limits]
        delete = "DELETE FROM counts WHERE key = ? AND entry = ?"
        await self.database.run(lambda db: db.executemany(delete, rows), Unrecorded)

    async def reservations(self, limit: Limit) -> Sequence[str]:
        query = "SELECT entry FROM counts WHERE key = ? AND until > ? ORDER BY until"
        key, now = f"reserved/{limit.place}", self._options.clock()
        rows = await self.database.run(lambda db: db.execute(query, (key, now)).fetchall())
        return [str(entry) for (entry,) in rows]

    async def forget(self, key: str, text: str) -> bool:
        now = self._options.clock()
        return await self._changed(_FORGET, key, text, now, meaning=Unrecorded) == 1

    async def noted(self, key: str) -> tuple[str, float] | None:
        query = "SELECT text, until FROM notes WHERE key = ? AND until > ?"
        now = self._options.clock()
        row = await self.database.look(query, key, now)
        if row is None:
            return None
        text, until = cast("tuple[str, float]", row)
        return text, until - now

    async def ping(self) -> None:
        await self.database.check()

    async def aclose(self) -> None:
        await self.database.aclose()

    async def _note(self, key: str, seconds: float, text: str) -> bool:
        now = self._options.clock()

        def note(db: sqlite3.Connection) -> bool:
            db.execute("DELETE FROM notes WHERE until <= ?", (now,))
            return db.execute(_NOTE, (key, text, now + seconds)).rowcount == 1

        return await self.database.run(note)

    async def _changed(
        self,
        statement: str,
        *parameters: str | float,
        meaning: type[StoreUnavailable] = StoreUnavailable,
    ) -> int:
        """Return how many rows one statement changed."""
        work = partial(_rowcount, statement, parameters)
        return await self.database.run(work, meaning)

    async def _take(self, kind: str, limits: Sequence[Limit], entry: str) -> Exhausted | None:
        if not limits:
            return None
        now = self._options.clock()
        rows = [(f"{kind}/{limit.place}", entry, now + limit.seconds) for limit in limits]

        def take(db: sqlite3.Connection) -> Exhausted | None:
            db.execute("DELETE FROM counts WHERE until <= ?", (now,))
            for limit, (key, _, _) in zip(limits, rows, strict=True):
                if full := _exhausted(limit, db.execute(_COUNT, (key, now)).fetchone(), now):
                    return full
            db.executemany(_TAKE, rows)
            return None

        return await self.database.run(take)


def _exhausted(limit: Limit, row: tuple[object, ...] | None, now: float) -> Exhausted | None:
    """Return the limit, if as much as this row says uses it up."""
    count, until = cast("tuple[int, float | None]", row or (0, None))
    if count < limit.amount:
        return None
    return Exhausted(limit.name, limit.seconds if until is None else until - now)


def _count(db: sqlite3.Connection, query: str, *parameters: str | float) -> int:
    return cast("tuple[int]", db.execute(query, parameters).fetchone())[0]


def _rowcount(statement: str, parameters: Sequence[str | float], db: sqlite3.Connection) -> int:
    return db.execute(statement, parameters).rowcount


def _requests(rows: Sequence[tuple[object, ...]]) -> Sequence[ApprovalRequest]:
    unpacked = (unpack_request(*cast("tuple[str, str | None]", row)) for row in rows)
    return [request for request in unpacked if request]


def _first(rows: Sequence[tuple[object, ...]]) -> ApprovalRequest | None:
    return next(iter(_requests(rows)), None)
