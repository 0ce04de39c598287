"""A store in SQLite: a file shared by the processes of one machine, or memory."""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import TypeVar, cast

from anyio import CapacityLimiter, to_thread

from calls_mcp.errors import ConfigurationError, OutcomeNotStored, StoreUnavailable
from calls_mcp.storage import restored_backup
from calls_mcp.storage.database import Database, Query, querying
from calls_mcp.storage.interface import Storage, why_unusable
from calls_mcp.storage.rate_limits import Limit, LimitExceeded
from calls_mcp.storage.records import (
    DAY,
    WEEK,
    YEAR,
    ApprovalRequest,
    CallsTo,
    ConfirmationState,
    Frequency,
    OperatorDecision,
    PendingConfirmation,
    PendingPage,
    Position,
    StorageOptions,
    TalkTime,
    as_json,
    entries_of_calls,
    fits,
    parse,
    parse_outcome,
    parse_requests,
    pending_page,
)
from calls_mcp.tools.outcome import Outcome

_T = TypeVar("_T")

_START = Position(-inf, "")

_ADD_CONFIRMATION = """
INSERT INTO confirmations (identifier, principal, pending, forget_at) VALUES (?, ?, ?, ?)
ON CONFLICT (identifier) DO NOTHING
"""
_DELETE_OLDEST_UNUSED = """
DELETE FROM confirmations WHERE rowid IN (
    SELECT rowid FROM confirmations WHERE principal = ? AND claimed_at IS NULL
    ORDER BY rowid DESC LIMIT -1 OFFSET ?
)
"""
# If there are too many in total, the oldest one of the owner with the most is deleted.
_DELETE_OF_LARGEST_OWNER = """
DELETE FROM confirmations WHERE rowid = (
    SELECT min(rowid) FROM confirmations
    WHERE (claimed_at IS NULL OR outcome IS NOT NULL)
    AND rowid < (SELECT max(rowid) FROM confirmations)
    GROUP BY principal ORDER BY count(*) DESC LIMIT 1
)
"""
_CLAIM = """
UPDATE confirmations SET claimed_at = ?
WHERE identifier = ? AND claimed_at IS NULL AND revoked IS NULL
"""
_RECORD_OUTCOME = "UPDATE confirmations SET outcome = ? WHERE identifier = ? AND outcome IS NULL"

_ADD_REQUEST = """
INSERT INTO approval_requests (identifier, owner, request, asked_at, expires_at)
VALUES (?, ?, ?, ?, ?)
"""
_COUNT_PENDING = """
SELECT count(*) FROM approval_requests WHERE owner = ? AND decision IS NULL AND expires_at > ?
"""
_FIND_REQUEST = "SELECT request, decision FROM approval_requests WHERE identifier = ?"
_DECIDE_REQUEST = """
UPDATE approval_requests SET decision = ?
WHERE identifier = ? AND decision IS NULL AND expires_at > ?
"""
_NEWEST_REQUESTS = "SELECT request, decision FROM approval_requests ORDER BY asked_at DESC LIMIT ?"
# The index has everything but the requests themselves.
_FROM_PENDING = (
    "FROM approval_requests INDEXED BY requests_pending WHERE decision IS NULL AND expires_at > ?"
)
_PENDING_REQUESTS = f"""
SELECT number, request, each.identifier, each.asked_at
FROM (SELECT count(*) AS number {_FROM_PENDING})
LEFT JOIN approval_requests AS each ON each.rowid IN (
    SELECT rowid {_FROM_PENDING} AND (asked_at, identifier) > (?, ?)
    ORDER BY asked_at, identifier LIMIT ?
) ORDER BY each.asked_at, each.identifier
"""  # noqa: S608  # of constants
# A new request has a greater rowid than all pending ones, so any change of the set changes the sum.
_PENDING_VERSION = f"SELECT count(*) || '.' || ifnull(sum(rowid), 0) {_FROM_PENDING}"

# How many entries are too many, and when enough of them have expired.
_EXCESS = """
WITH counted AS (SELECT until FROM counts WHERE key = ? AND until > ?),
    excess AS (SELECT count(*) + ? AS number FROM counted)
SELECT number, (SELECT until FROM counted ORDER BY until LIMIT 1 OFFSET (
    SELECT max(0, number - 1) FROM excess
)) FROM excess
"""
_ADD_COUNT = "INSERT INTO counts (key, entry, until) VALUES (?, ?, ?)"
_CALLS_TO = """
SELECT count(*) FILTER (WHERE until > :in_a_day), max(until) IS NOT NULL OR EXISTS (
    SELECT 1 FROM notes WHERE key = :key AND until > :now
), (
    SELECT entry FROM counts WHERE key = :key AND until > :now
    ORDER BY until DESC, entry DESC LIMIT 1
) FROM counts WHERE key = :key AND until > :now
"""
# The text is the first call, so that the number is forgotten if that call was not placed.
_REMEMBER = """
INSERT INTO notes (key, text, until) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET until = excluded.until
"""
_TALK = "SELECT text FROM notes WHERE key > ? AND key < ? AND until > ?"
_AFTER = "~"  # after all entries
_SET_IF_ABSENT = (
    "INSERT INTO notes (key, text, until) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING"
)
_DELETE_IF_EQUAL = "DELETE FROM notes WHERE key = ? AND text = ? AND until > ?"


class SqliteStorage(Storage):
    """A `Storage` in the SQLite file at `path`, or in memory if that is None."""

    _failures = (sqlite3.Error, OSError)

    def __init__(self, path: Path | None, options: StorageOptions) -> None:
        super().__init__(options)
        self.kind = "sqlite" if path else "memory"
        self.where = str(path or "memory:")
        self._writer = self._reader = Database(path, options.timeout)
        if path:  # a separate connection, so that readers don't wait for writers of this process
            self._reader = Database(path, options.timeout)
        self._writers, self._readers = CapacityLimiter(1), CapacityLimiter(1)

    async def require_usable(self) -> None:
        """Check that the database can be written to now, or created.

        Raises:
            ConfigurationError: It can't.
        """
        try:
            await to_thread.run_sync(self._writer.require_writable)
        except self._failures as failure:
            raise ConfigurationError(why_unusable(self.where, failure)) from failure

    async def add_confirmation(self, identifier: str, pending: PendingConfirmation) -> None:
        options, owner = self._options, pending.owner
        record, forget_at = as_json(pending), pending.expires_at + options.retention

        def add(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM confirmations WHERE forget_at <= ?", (options.clock(),))
            restored_backup.revoke_if_restored(db, self._writer.path)
            db.execute(_ADD_CONFIRMATION, (identifier, owner, record, forget_at))
            db.execute(_DELETE_OLDEST_UNUSED, (owner, options.max_unused))
            if _number(db, "SELECT count(*) FROM confirmations") > options.capacity:
                db.execute(_DELETE_OF_LARGEST_OWNER)

        await self._write(add)

    async def find_confirmation(self, identifier: str) -> PendingConfirmation | None:
        query = "SELECT pending FROM confirmations WHERE identifier = ?"
        row = await self._fetch_one(query, identifier)
        return parse(PendingConfirmation, cast("str", row[0])) if row else None

    async def _claim(self, identifier: str) -> bool:
        now = self._options.clock()

        def claim(db: sqlite3.Connection) -> bool:
            restored_backup.revoke_if_restored(db, self._writer.path)
            is_claimed = db.execute(_CLAIM, (now, identifier)).rowcount == 1
            if is_claimed:
                restored_backup.renew(db, self._writer.path)
            return is_claimed

        return await self._write(claim)

    async def confirmation_state(self, identifier: str) -> ConfirmationState | None:
        query = "SELECT claimed_at, outcome FROM confirmations WHERE identifier = ?"
        row = await self._fetch_one(query, identifier)
        if row is None:
            return None
        claimed_at, outcome = cast("tuple[float | None, str | None]", row)
        return ConfirmationState(claimed_at, parse_outcome(outcome))

    async def _record(self, identifier: str, outcome: Outcome) -> None:
        parameters = (outcome.to_json(), identifier)
        await self._change(_RECORD_OUTCOME, *parameters, raises=OutcomeNotStored)

    async def add_request(self, request: ApprovalRequest, most: int) -> bool:
        now, owner = self._options.clock(), request.owner
        row = (request.identifier, owner, as_json(request), request.asked_at, request.expires_at)
        old = (  # expires_at is in an index; see ApprovalRequest.usable_until
            "DELETE FROM approval_requests WHERE expires_at <= ? AND 2 * expires_at - asked_at <= ?"
        )

        def add(db: sqlite3.Connection) -> bool:
            db.execute(old, (now - self._options.retention, now))
            if _number(db, _COUNT_PENDING, owner, now) >= most:
                return False
            db.execute(_ADD_REQUEST, row)
            return True

        return await self._write(add)

    async def find_request(self, identifier: str) -> ApprovalRequest | None:
        return next(iter(_requests(await self._fetch_all(_FIND_REQUEST, identifier))), None)

    async def find_request_after_writes(self, identifier: str) -> ApprovalRequest | None:
        await self.ping()
        return await self.find_request(identifier)

    async def decide_request(
        self, identifier: str, decision: OperatorDecision
    ) -> OperatorDecision | None:
        row = (as_json(decision), identifier, self._options.clock())

        def decide(db: sqlite3.Connection) -> str | None:
            db.execute(_DECIDE_REQUEST, row)
            query = "SELECT decision FROM approval_requests WHERE identifier = ?"
            found = db.execute(query, (identifier,)).fetchone() or (None,)
            return cast("tuple[str | None]", found)[0]

        return parse(OperatorDecision, await self._write(decide))

    async def newest_requests(self, most: int) -> Sequence[ApprovalRequest]:
        return _requests(await self._fetch_all(_NEWEST_REQUESTS, most))

    async def pending_requests(self, most: int, after: Position | None = None) -> PendingPage:
        now, start = self._options.clock(), after or _START
        parameters = (now, now, start.asked_at, start.identifier, most + 1)
        found = await self._fetch_all(_PENDING_REQUESTS, *parameters)
        rows = cast("list[tuple[int, str | None, str, float]]", found)
        requests = [(text, identifier, at) for _, text, identifier, at in rows if text is not None]
        return pending_page(requests, most, rows[0][0] if rows else 0)

    async def pending_version(self) -> str:
        row = await self._fetch_one(_PENDING_VERSION, self._options.clock())
        return cast("str", row[0]) if row else "0.0"

    async def check_limits(self, limits: Sequence[Limit], times: int = 1) -> LimitExceeded | None:
        now = self._options.clock()
        for limit in limits:
            excess = times - limit.amount
            row = await self._fetch_one(_EXCESS, f"hits/{limit.counter}", now, excess)
            if exceeded := _exceeded(limit, row or (excess, None), now):  # there may be no file
                return exceeded
        return None

    async def _usage(self, kind: str, limit: Limit) -> int:
        query = "SELECT count(*) FROM counts WHERE key = ? AND until > ?"
        row = await self._fetch_one(query, f"{kind}/{limit.counter}", self._options.clock())
        return cast("int", row[0]) if row else 0

    async def _uncount(self, kind: str, limits: Sequence[Limit], entries: Sequence[str]) -> None:
        rows = [(f"{kind}/{limit.counter}", entry) for limit in limits for entry in entries]
        delete = "DELETE FROM counts WHERE key = ? AND entry = ?"
        await self._write(lambda db: db.executemany(delete, rows), OutcomeNotStored)

    async def _counted(self, kind: str, limit: Limit) -> Sequence[str]:
        query = "SELECT entry FROM counts WHERE key = ? AND until > ? ORDER BY until"
        key, now = f"{kind}/{limit.counter}", self._options.clock()
        rows = await self._write(lambda db: db.execute(query, (key, now)).fetchall())
        return [str(entry) for (entry,) in rows]

    async def calls_to(
        self, numbers: Sequence[str], most: Frequency, entry: str = ""
    ) -> Sequence[CallsTo] | LimitExceeded:
        now = self._options.clock()
        calls = entries_of_calls([f"calls_to/{number}" for number in numbers], entry)

        def look(rows: Query) -> Sequence[CallsTo] | LimitExceeded:
            exceeded = (_called(rows, key, len(each), most, now) for key, each in calls.items())
            return next(filter(None, exceeded), [_calls_to(rows, key, now) for key in calls])

        def count(db: sqlite3.Connection) -> Sequence[CallsTo] | LimitExceeded:
            found = look(querying(db))
            if not isinstance(found, LimitExceeded):
                db.execute("DELETE FROM notes WHERE until <= ?", (now,))
                added = [(key, each, now + WEEK) for key in calls for each in calls[key]]
                db.executemany(_ADD_COUNT, added)
                db.executemany(_REMEMBER, [(key, entry, now + YEAR) for key in calls])
            return found

        return await (self._write(count) if entry else self._view(look))

    async def remove_call(self, numbers: Sequence[str], entry: str) -> None:
        calls = entries_of_calls([f"calls_to/{number}" for number in numbers], entry)
        rows = [(key, each) for key in calls for each in calls[key]]

        def remove(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM counts WHERE key = ? AND entry = ?", rows)
            db.executemany("DELETE FROM notes WHERE key = ? AND text = ?", rows)

        await self._write(remove, OutcomeNotStored)

    async def spend(self, budgets: Sequence[Limit], talk: TalkTime) -> Limit | None:
        now = self._options.clock()
        rows = [(_talk(budget, talk.entry), as_json(talk), talk.since + DAY) for budget in budgets]

        def find_full(query: Query) -> Limit | None:
            for budget in budgets:
                found = query(_TALK, (_talk(budget), _talk(budget, _AFTER), now))
                if not fits(_talk_times(found), budget, talk.least, now):
                    return budget
            return None

        def spend(db: sqlite3.Connection) -> Limit | None:
            full = find_full(querying(db))
            if full is None:
                db.execute("DELETE FROM notes WHERE until <= ?", (now,))
                db.executemany(_SET_IF_ABSENT, rows)
            return full

        return await (self._write(spend) if talk.entry else self._view(find_full))

    async def correct(self, budgets: Sequence[Limit], talk: TalkTime) -> None:
        rows = [(as_json(talk), _talk(budget, talk.entry)) for budget in budgets]
        update = "UPDATE notes SET text = ? WHERE key = ?"
        await self._write(lambda db: db.executemany(update, rows), OutcomeNotStored)

    async def spent(self, budget: Limit) -> Sequence[TalkTime]:
        now = self._options.clock()
        rows = await self._fetch_all(_TALK, _talk(budget), _talk(budget, _AFTER), now)
        return sorted(_talk_times(rows), key=lambda each: each.since)

    async def get_with_ttl(self, key: str) -> tuple[str, float] | None:
        query = "SELECT text, until FROM notes WHERE key = ? AND until > ?"
        now = self._options.clock()
        row = await self._fetch_one(query, key, now)
        if row is None:
            return None
        value, until = cast("tuple[str, float]", row)
        return value, until - now

    async def delete_if_equal(self, key: str, value: str) -> bool:
        parameters = (key, value, self._options.clock())
        return await self._change(_DELETE_IF_EQUAL, *parameters, raises=OutcomeNotStored) == 1

    async def ping(self) -> None:
        with self._raising(StoreUnavailable):
            check = partial(self._writer.require_writable, self._writer.deadline())
            await self._run(check, self._writers)

    async def aclose(self) -> None:
        for database, queue in (self._writer, self._writers), (self._reader, self._readers):
            await to_thread.run_sync(database.close, limiter=queue)

    async def _is_set(self, key: str, ttl: float, value: str) -> bool:
        now = self._options.clock()

        def add(db: sqlite3.Connection) -> bool:
            db.execute("DELETE FROM notes WHERE until <= ?", (now,))
            return db.execute(_SET_IF_ABSENT, (key, value, now + ttl)).rowcount == 1

        return await self._write(add)

    async def _count(
        self, kind: str, limits: Sequence[Limit], entries: Sequence[str]
    ) -> LimitExceeded | None:
        if not limits:
            return None
        now = self._options.clock()
        keys = [f"{kind}/{limit.counter}" for limit in limits]
        rows = [
            (key, entry, now + limit.seconds)
            for limit, key in zip(limits, keys, strict=True)
            for entry in entries
        ]

        def count(db: sqlite3.Connection) -> LimitExceeded | None:
            db.execute("DELETE FROM counts WHERE until <= ?", (now,))
            for limit, key in zip(limits, keys, strict=True):
                row = db.execute(_EXCESS, (key, now, len(entries) - limit.amount)).fetchone()
                if exceeded := _exceeded(limit, row, now):
                    return exceeded
            db.executemany(_ADD_COUNT, rows)
            return None

        return await self._write(count)

    async def _change(
        self,
        statement: str,
        *parameters: str | float,
        raises: type[StoreUnavailable] = StoreUnavailable,
    ) -> int:
        """Return how many rows one statement changed."""
        return await self._write(lambda db: db.execute(statement, parameters).rowcount, raises)

    async def _write(
        self,
        work: Callable[[sqlite3.Connection], _T],
        raises: type[StoreUnavailable] = StoreUnavailable,
    ) -> _T:
        """Run `work` in a thread as one transaction and return its result."""
        with self._raising(raises):
            write = partial(self._writer.write, work, self._writer.deadline())
            return await self._run(write, self._writers)

    async def _fetch_one(self, query: str, *parameters: str | float) -> tuple[object, ...] | None:
        return next(iter(await self._fetch_all(query, *parameters)), None)

    async def _fetch_all(
        self, query: str, *parameters: str | float
    ) -> Sequence[tuple[object, ...]]:
        """Return the rows of `query`; none if the file does not exist."""
        return await self._view(lambda rows: rows(query, parameters))

    async def _view(self, work: Callable[[Query], _T]) -> _T:
        """Run `work` in a thread, without waiting for writers, and return its result."""
        with self._raising(StoreUnavailable):
            view = partial(self._reader.view, work, self._reader.deadline())
            return await self._run(view, self._readers)

    async def _run(self, work: Callable[[], _T], queue: CapacityLimiter) -> _T:
        if self.kind == "memory":  # nothing to wait for
            return work()
        return await to_thread.run_sync(work, limiter=queue)


def _exceeded(limit: Limit, row: tuple[object, ...], now: float) -> LimitExceeded | None:
    """Return the limit if there is an excess in this row."""
    excess, until = cast("tuple[int, float | None]", row)
    if excess <= 0:
        return None
    return LimitExceeded(limit.name, limit.seconds if until is None else until - now)


def _calls_to(rows: Query, key: str, now: float) -> CallsTo:
    values = {"key": key, "in_a_day": now + WEEK - DAY, "now": now}
    found = cast("list[tuple[int, int, str | None]]", rows(_CALLS_TO, values))
    count, is_known, last = found[0] if found else (0, 0, None)
    return CallsTo(count, bool(is_known), last or "")


def _called(rows: Query, key: str, times: int, most: Frequency, now: float) -> LimitExceeded | None:
    """Return a limit without room for so many more calls to a number, if any."""
    for name, amount, seconds in most.windows:
        # A call counts until it is a week old, and for this limit until it is `seconds` old.
        counting = now + WEEK - seconds
        excess = times - amount
        found = rows(_EXCESS, (key, counting, excess)) or [(excess, None)]  # there may be no file
        limit = Limit(name, amount, seconds, key)
        if amount and (exceeded := _exceeded(limit, found[0], counting)):
            return exceeded
    return None


def _talk(budget: Limit, entry: str = "") -> str:
    # The name of a principal in the counter can have a slash, too.
    return (
        f"talk/{hashlib.sha256(budget.counter.encode(errors='surrogatepass')).hexdigest()}/{entry}"
    )


def _talk_times(rows: Sequence[tuple[object, ...]]) -> Sequence[TalkTime]:
    found = (parse(TalkTime, cast("str", row[0])) for row in rows)
    return [each for each in found if each is not None]


def _number(db: sqlite3.Connection, query: str, *parameters: str | float) -> int:
    return cast("tuple[int]", db.execute(query, parameters).fetchone())[0]


def _requests(rows: Sequence[tuple[object, ...]]) -> Sequence[ApprovalRequest]:
    return parse_requests(cast("Sequence[tuple[str, str | None]]", rows))
