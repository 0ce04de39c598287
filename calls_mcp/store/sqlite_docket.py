"""The operator's cases in an SQLite file."""

import sqlite3
from collections.abc import Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, cast

from calls_mcp.store.docket import (
    Case,
    Filed,
    Place,
    Queue,
    Ruling,
    pack_case,
    pack_ruling,
    queue,
    unpack_filed,
    unpack_ruling,
)

if TYPE_CHECKING:
    from calls_mcp.storage.database import Database
    from calls_mcp.store.record import Keeping

# All of it but the cases themselves is in that index.
_THESE = "FROM cases INDEXED BY cases_waiting WHERE ruling IS NULL AND lapses_at > ?"
_WAITING = f"""
SELECT number, "case", cases.identifier, cases.asked_at
FROM (SELECT count(*) AS number {_THESE}) LEFT JOIN cases ON cases.rowid IN (
    SELECT rowid {_THESE} AND (asked_at, identifier) > (?, ?)
    ORDER BY asked_at, identifier LIMIT ?
) ORDER BY cases.asked_at, cases.identifier
"""  # noqa: S608  # of constants
# What comes has a greater rowid than all that waits, so that no exchange leaves the sum as it is.
_MARK = f"SELECT count(*) || '.' || ifnull(sum(rowid), 0) {_THESE}"
_START = Place(-inf, "")
_COUNT = "SELECT count(*) FROM cases WHERE principal = ? AND ruling IS NULL AND lapses_at > ?"
_FILE = """
INSERT INTO cases (identifier, principal, "case", asked_at, lapses_at) VALUES (?, ?, ?, ?, ?)
"""
_FIND = 'SELECT "case", ruling FROM cases WHERE identifier = ?'
_RULE = """
UPDATE cases SET ruling = ? WHERE identifier = ? AND ruling IS NULL AND lapses_at > ?
"""


class SqliteDocket:
    """A `Docket` in the file of a store."""

    def __init__(self, database: "Database", keeping: "Keeping") -> None:
        self._database = database
        self._keeping = keeping

    async def file(self, case: Case, most: int) -> bool:
        """Keep a new case, and forget those that are old."""
        return await self._database.run(partial(self._file, case, most))

    async def find(self, identifier: str) -> Filed | None:
        """The case of this identifier, if it is still kept."""
        return next(iter(_filed(await self._database.look_at_all(_FIND, identifier))), None)

    async def settled(self, identifier: str) -> Filed | None:
        """The same, once nobody else writes."""
        rows = await self._database.run(lambda db: db.execute(_FIND, (identifier,)).fetchall())
        return next(iter(_filed(rows)), None)

    async def rule(self, identifier: str, ruling: Ruling) -> Ruling | None:
        """Decide a case, once for all."""

        def decide(db: sqlite3.Connection) -> str | None:
            db.execute(_RULE, (pack_ruling(ruling), identifier, self._keeping.clock()))
            row = db.execute("SELECT ruling FROM cases WHERE identifier = ?", (identifier,))
            return cast("tuple[str | None]", row.fetchone() or (None,))[0]

        standing = await self._database.run(decide)
        return unpack_ruling(standing) if standing else None

    async def listed(self, most: int) -> Sequence[Filed]:
        """The newest cases, the newest first."""
        query = 'SELECT "case", ruling FROM cases ORDER BY asked_at DESC LIMIT ?'
        return _filed(await self._database.look_at_all(query, most))

    async def waiting(self, most: int, after: Place | None = None) -> Queue:
        """At most `most` of those that can be decided now, the oldest first."""
        now, place = self._keeping.clock(), after or _START
        parameters = (now, now, place.asked_at, place.identifier, most + 1)
        found = await self._database.look_at_all(_WAITING, *parameters)
        rows = cast("list[tuple[int, str | None, str, float]]", found)
        cases = [(case, identifier, at) for _, case, identifier, at in rows if case is not None]
        return queue(cases, most, rows[0][0])

    async def mark(self) -> str:
        """What is another whenever something else waits than before."""
        row = await self._database.look(_MARK, self._keeping.clock())
        return cast("tuple[str]", row)[0]

    def _file(self, case: Case, most: int, db: sqlite3.Connection) -> bool:
        now, principal = self._keeping.clock(), case.binding.principal
        db.execute("DELETE FROM cases WHERE lapses_at <= ?", (now - self._keeping.retention,))
        (waiting,) = cast("tuple[int]", db.execute(_COUNT, (principal, now)).fetchone())
        if waiting >= most:
            return False
        row = (case.identifier, principal, pack_case(case), case.asked_at, case.lapses_at)
        db.execute(_FILE, row)
        return True


def _filed(rows: Sequence[tuple[object, ...]]) -> Sequence[Filed]:
    unpacked = (unpack_filed(*cast("tuple[str, str | None]", row)) for row in rows)
    return [filed for filed in unpacked if filed]
