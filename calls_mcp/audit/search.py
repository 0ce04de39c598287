"""Read the audit log: pages, the records about a call, searches and exports."""

import json
import re
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import cast

from calls_mcp.audit.records import Fields, Link, encode, is_intact, parse
from calls_mcp.errors import ConfigurationError
from calls_mcp.tools.catalog import Json

_FARTHEST = 10_000  # records that one query searches
_LARGEST = 100  # records of a change that are shown as one
_BATCH = 500  # records; a long query would keep SQLite from truncating its write-ahead log
_EXACT = ("tool", "decision", "phase", "principal")
_ASCII = re.compile("[\0-\x7f]*")
_MASKED = json.dumps("•")[1:-1].encode()
_MAX_SEQ = 2**63 - 1
_FIELD = "CASE WHEN json_valid({0}body) THEN json_extract({0}body, '$.{1}') END"
_COLUMNS = {name: _FIELD.format("", name) for name in ("id", "approval_id")}
"""Fields in SQL. There is an index for exactly these expressions."""
_PLACEMENTS = f"""
SELECT wanted.value, first.body FROM json_each(?) AS wanted
JOIN audit AS later ON later.sid = wanted.value AND later.tool = 'create_call'
JOIN audit AS first ON {_FIELD.format("first.", "id")} = {_FIELD.format("later.", "id")}
    AND first.seq < later.seq
"""  # noqa: S608  # of constants
_APPROVAL_OF = f"""
SELECT {_COLUMNS["approval_id"]} AS approval FROM audit
WHERE {_COLUMNS["id"]} = ? AND approval IS NOT NULL
"""  # noqa: S608  # of constants
_APPROVED = f"""
SELECT DISTINCT each.seq FROM audit AS one
JOIN audit AS each ON {_FIELD.format("each.", "id")} = {_FIELD.format("one.", "id")}
WHERE {_FIELD.format("one.", "approval_id")} = ? ORDER BY each.seq DESC
"""  # noqa: S608  # of constants
_PRINCIPALS = f"""
SELECT DISTINCT name FROM (
    SELECT {_FIELD.format("", "principal")} AS name FROM audit
    WHERE time >= ? AND tool = 'create_call' AND sid IS NOT NULL ORDER BY seq DESC LIMIT 1000
) WHERE name IS NOT NULL
"""  # noqa: S608  # of constants
_HAS_TABLE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'audit'"
_NO_RECORDS = (
    "CREATE TEMP VIEW audit AS SELECT 0 AS seq, '' AS time, NULL AS tool, NULL AS sid, '' AS prev, "
    "'' AS hash, '' AS body WHERE 0"
)

Row = tuple[int, bytes]
"""A record's number and its line."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are wanted: `text` may be anywhere in a record, the others are fields.

    `since` and `until` (exclusive) are ISO 8601 UTC times or prefixes of them. Empty conditions
    always hold.
    """

    text: str = ""
    tool: str = ""
    decision: str = ""
    phase: str = ""
    principal: str = ""
    since: str = ""
    until: str = ""

    @property
    def given(self) -> dict[str, str]:
        """The conditions that are not empty, by name."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def where(self) -> tuple[str, list[str | int]]:
        """The condition in SQL, which uses no index, and its parameters."""
        conditions, values = ["1"], list[str | int]()
        if self.since:
            conditions.append("+time >= ?")
            values.append(self.since)
        if self.until:
            conditions.append("+time < ?")
            values.append(self.until)
        for name in _EXACT:
            if value := getattr(self, name):
                conditions.append("instr(body, ?)")
                values.append(encode({name: value})[1:-1])
        condition = " AND ".join(conditions)
        if not self.text:
            return condition, values
        condition = f"CASE WHEN {condition} THEN mentions(CAST(body AS BLOB), ?) END"
        return condition, [*values, self.text.casefold()]


@dataclass(frozen=True, slots=True)
class Found:
    """A record that was found. A line that can't be parsed has no fields."""

    line: bytes
    fields: Fields

    @property
    def is_intact(self) -> bool:
        """Whether the record is exactly as it was written."""
        return bool(self.fields) and is_intact(self.line, self.fields)


@dataclass(frozen=True, slots=True)
class Origin:
    """The principal that requested a call, and the operator who approved it, if any."""

    requester: str
    approver: str = ""


NOWHERE = Origin("")
"""The origin of a call that the audit log does not have."""


class AuditReader:
    """Reads the log in the SQLite file at `path`, even while servers write to it. Methods block.

    A missing file, or one without an audit log, has no records. Every method raises
    ConfigurationError if the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def page(
        self, wanted: Filter, most: int, before: int | None = None
    ) -> tuple[list[Found], int | None]:
        """Return the newest wanted records, and the `before` of the next page, if there is one.

        At most 10,000 records before number `before` are searched.
        """
        with self._reading() as database:
            rows, older = _scan(database, wanted, before)
            found = [*islice(rows, most + 1)]
        if len(found) > most:
            older = found[most - 1][0]
        return [_found(line) for _, line in found[:most]], older

    def changes(
        self, wanted: Filter, most: int, before: int | None = None
    ) -> tuple[list[list[Found]], int | None]:
        """Return the newest changes that have a wanted record, like `page`.

        A change consists of all its records, oldest first, of which some may not be wanted. One
        with more than 100 records is shown in several parts.
        """
        parts = dict[int, frozenset[int]]()
        with self._reading() as database:
            rows, older = _scan(database, wanted, before)
            seen = set[int]()
            for seq, line in rows:
                if seq in seen:
                    continue
                part = _part(database, seq, parse(line) or {})
                seen |= part
                if before is not None and _is_wanted(database, wanted, part, before):
                    continue  # it is on a newer page
                if len(parts) == most:
                    older = [*parts][-1]
                    break
                parts[seq] = part
            return [_lines(database, part) for part in parts.values()], older

    def about(self, sid: str) -> list[Fields]:
        """Return the records about a call and those that led to it, oldest first.

        Earlier records are found by the id of the change and of the approval.
        """
        found: dict[int, Fields] = {}
        with self._reading() as database:
            queries: list[tuple[str, str, int]] = [("sid", sid, _MAX_SEQ)]
            for column, value, before in queries:
                query = f"SELECT seq, body FROM audit WHERE {column} = ? AND seq <= ?"  # noqa: S608
                for seq, line in map(_row, database.execute(query, (value, before)).fetchall()):
                    if seq not in found and (record := parse(line)):
                        found[seq] = record
                        queries += ((*link, seq) for link in _links(record))
        return [found[seq] for seq in sorted(found)]

    def origins(self, sids: Iterable[str]) -> dict[str, Origin]:
        """Return the origins of those of these calls that the log has, by SID."""
        with self._reading() as database:
            rows = database.execute(_PLACEMENTS, (json.dumps([*sids]),)).fetchall()
        found = ((_text(sid), parse(_line(body))) for sid, body in rows)
        return {
            str(sid): Origin(str(record.get("principal", "")), str(record.get("decided_by") or ""))
            for sid, record in found
            if record
        }

    def principals(self, since: str) -> list[str]:
        """Return the principals that placed the newest 1,000 calls since a time (ISO 8601 UTC)."""
        with self._reading() as database:
            rows = database.execute(_PRINCIPALS, (since,)).fetchall()
        return sorted(str(_text(name)) for (name,) in rows)

    def decisions(self, since: str, most: int, after: int = 0) -> list[Fields]:
        """Return the newest records of decisions, newest first.

        They begin at `since` (ISO 8601 UTC), and have higher numbers than `after`.
        """
        query = (
            "SELECT body FROM audit "
            "WHERE seq >= max(?, (SELECT min(seq) FROM audit WHERE time >= ?)) AND +time >= ? "
            """AND instr(body, '"decision":"') ORDER BY seq DESC LIMIT ?"""
        )
        with self._reading() as database:
            rows = database.execute(query, (after + 1, since, since, most)).fetchall()
        return [record for (body,) in rows if (record := parse(_line(body)))]

    def rows(self, wanted: Filter | None = None, after: int | None = None) -> Iterator[Row]:
        """Yield the wanted records after number `after`, oldest first."""
        yield from map(_row, self._batches("seq, body", wanted or Filter(), after))

    def has(self, link: Link) -> bool:
        """Return whether there is a record with this number and hash."""
        query = "SELECT 1 FROM audit WHERE seq = ? AND hash = ?"
        with self._reading() as database:
            return bool(database.execute(query, (link.seq, link.hash)).fetchone())

    def columns(self, after: int | None = None) -> Iterator[tuple[bytes, dict[str, Json]]]:
        """Yield the line of each record after number `after`, and the other columns of its row."""
        names = ("seq", "time", "tool", "sid", "prev", "hash")
        for row in self._batches("seq, time, tool, sid, prev, hash, body", Filter(), after):
            yield _line(row[-1]), {name: _text(row[at]) for at, name in enumerate(names)}

    def _batches(
        self, columns: str, wanted: Filter, after: int | None
    ) -> Iterator[Sequence[object]]:
        condition, values = wanted.where
        query = f"SELECT {columns} FROM audit WHERE seq > ? AND {condition} ORDER BY seq LIMIT ?"  # noqa: S608
        last = -(2**63) if after is None else after
        with self._reading() as database:
            while rows := database.execute(query, (last, *values, _BATCH)).fetchall():
                yield from rows
                last = rows[-1][0]

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection]:
        try:
            with closing(self._connected()) as database:
                if not database.execute(_HAS_TABLE).fetchone():
                    database.execute(_NO_RECORDS)
                database.execute("PRAGMA query_only = ON")
                database.text_factory = bytes  # to show text that is not UTF-8 too
                database.create_function("mentions", 2, _mentions, deterministic=True)
                yield database
        except sqlite3.Error as error:
            raise ConfigurationError(
                f"The audit log {self._path} can't be read: {error}"
            ) from error

    def _connected(self) -> sqlite3.Connection:
        if not self._path.exists():
            return sqlite3.connect(":memory:", check_same_thread=False)
        # Not `mode=ro`: after a crash, SQLite must first roll back.
        uri = f"{self._path.resolve().as_uri()}?mode=rw"
        # An export is read by several threads, one after another.
        return sqlite3.connect(uri, uri=True, check_same_thread=False)


def _end(database: sqlite3.Connection) -> int:
    (newest,) = database.execute("SELECT max(seq) FROM audit").fetchone()
    return cast("int", newest or 0) + 1


def _floor(database: sqlite3.Connection, end: int) -> int:
    """Return a number that is at most `_FARTHEST` records before `end`."""
    (newest,) = database.execute("SELECT max(seq) FROM audit WHERE seq < ?", (end,)).fetchone()
    return max(cast("int", newest or 0) + 1 - _FARTHEST, -_MAX_SEQ)


def _scan(
    database: sqlite3.Connection, wanted: Filter, before: int | None
) -> tuple[Iterator[Row], int | None]:
    """Return the wanted rows of one search, newest first, and where the next one begins, if any."""
    condition, values = wanted.where
    end = _end(database) if before is None else before
    floor = _floor(database, end)
    rows = database.execute(
        f"SELECT seq, body FROM audit WHERE seq < ? AND seq >= ? AND {condition} ORDER BY seq DESC",  # noqa: S608  # the condition is ours
        (end, floor, *values),
    )
    has_older = database.execute("SELECT 1 FROM audit WHERE seq < ?", (floor,)).fetchone()
    return map(_row, rows), floor if has_older else None


def _part(database: sqlite3.Connection, seq: int, record: Fields) -> frozenset[int]:
    """Return the numbers of the records that are shown together with a record, and its own."""
    identifier, approval = record.get("id"), record.get("approval_id")
    if identifier and not approval:
        (approval,) = database.execute(_APPROVAL_OF, (str(identifier),)).fetchone() or (None,)
    query, key = _APPROVED, approval
    if not approval:
        query = f"SELECT seq FROM audit WHERE {_COLUMNS['id']} = ? ORDER BY seq DESC"  # noqa: S608
        key = identifier
    seqs = [each for (each,) in database.execute(query, (str(_text(key)),))]
    if seq not in seqs:
        return frozenset({seq})  # it was edited
    start = seqs.index(seq) // _LARGEST * _LARGEST
    return frozenset(seqs[start : start + _LARGEST])


def _is_wanted(
    database: sqlite3.Connection, wanted: Filter, seqs: Iterable[int], since: int
) -> bool:
    """Return whether any of these records is wanted and has the number `since` or a higher one."""
    condition, values = wanted.where
    query = (
        "SELECT 1 FROM audit JOIN json_each(?) AS each ON seq = each.value "  # noqa: S608
        f"WHERE seq >= ? AND {condition}"
    )
    return bool(database.execute(query, (json.dumps([*seqs]), since, *values)).fetchone())


def _lines(database: sqlite3.Connection, seqs: Iterable[int]) -> list[Found]:
    query = "SELECT body FROM audit JOIN json_each(?) AS each ON seq = each.value ORDER BY seq"
    return [_found(_line(body)) for (body,) in database.execute(query, (json.dumps([*seqs]),))]


def _found(line: bytes) -> Found:
    return Found(line, parse(line) or {})


def _row(row: Sequence[object]) -> Row:
    return cast("int", row[0]), _line(row[1])


def _line(body: object) -> bytes:
    return body if isinstance(body, bytes) else b""


def _text(value: object) -> Json:
    return value.decode(errors="replace") if isinstance(value, bytes) else cast("Json", value)


def _links(record: Fields) -> Iterator[tuple[str, str]]:
    """Yield the columns by which older records about the same change are found, with values."""
    names = ("approval_id",) if record.get("phase") == "decided" else ("approval_id", "id")
    return ((_COLUMNS[name], str(record[name])) for name in names if record.get(name))


def _mentions(line: bytes, needle: str) -> bool:
    """Return whether a record contains `needle`, ignoring case."""
    if not _may_mention(line.lower(), _plain(needle)):
        return False
    record = parse(line)
    if record is None:
        return True  # a line that can't be parsed is always shown
    return any(needle in text.casefold() for text in _texts([*record.values()]))


def _may_mention(line: bytes, plain: bytes) -> bool:
    """Return whether a record may match, by its bytes, because parsing takes much longer."""
    if plain in line and plain:
        return True
    # Letters such as ß become ASCII when case is ignored. Masked numbers have no letters.
    others = line.replace(_MASKED, b"") if plain else line
    return b"\\u" in others or not line.isascii()


@lru_cache(16)
def _plain(needle: str) -> bytes:
    """Return the longest part of a text that is unchanged in a line."""
    return max((json.dumps(part)[1:-1] for part in _ASCII.findall(needle)), key=len).encode()


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    else:
        yield value if isinstance(value, str) else json.dumps(value)
