"""Check whether a log is still as it was written, following its chain from record to record."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calls_mcp.audit.records import START, Fields, Link, is_intact, link_of, parse
from calls_mcp.audit.search import AuditReader
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability.redaction import one_line
from calls_mcp.tools.catalog import Json

_LONGEST_TIME = 32  # characters
_BATCH, _PAUSE = 50, 0.0001  # records between two pauses, and seconds

ProblemKind = Literal["tampering", "torn", "unfinished", "partial"]
"""What is wrong.

- `tampering`: a record was edited, removed, inserted, moved or repeated
- `torn`: the last line of a file was never written completely
- `unfinished`: a change has only one of its two records: it is in progress, or its end is lost
- `partial`: a file of lines begins with a later record than the first; only ever a note
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in a file's `line` (from 1; None in a database) or at record `seq`."""

    kind: ProblemKind
    line: int | None
    seq: int | None
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a log holds; times are those of its first and last intact record, ISO 8601 UTC.

    `notes` are what is no problem. Keep `last_hash` somewhere else: a later check can be told to
    expect it. Times and hash are "" if there is no intact record.
    """

    records: int
    first_time: str
    last_time: str
    last_hash: str
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    @property
    def is_intact(self) -> bool:
        """Whether all records are intact and in order. Changes may still be unfinished."""
        return all(problem.kind == "unfinished" for problem in self.problems)


def verify(path: Path, expect: str | None = None, *, is_aside: bool = False) -> Report:
    """Check a log: an SQLite database, which servers may be writing, or a file of JSON lines.

    It finds records that were edited, removed, inserted, moved or repeated, torn lines, and changes
    with only one of their two records. It can't see from the log alone that records were removed
    from its end, or that somebody rewrote it from some record on, hashes included. So keep a
    `last_hash` somewhere else and pass it as `expect`: a record must still have it, and then
    everything up to that record is intact. With `is_aside`, other threads of this process run as
    fast as if nothing was going on.

    A database must begin with the first record. A file of lines may begin with a later one, as an
    export with a starting time does; the report notes that.

    Raises:
        ConfigurationError: The log can't be read, or is none.
    """
    inspection = _Inspection((expect or "").strip().lower())
    for number, row in enumerate(_rows(path)):
        inspection.take(row)
        if is_aside and number % _BATCH == 0:
            time.sleep(_PAUSE)  # otherwise each would wait for the interpreter's 5 ms at every turn
    return inspection.report()


def describe(report: Report) -> list[str]:
    """Return the report in plain words, one string a line."""
    return [*_summary(report), *map(_line, (*report.problems, *report.notes))]


def _summary(report: Report) -> Iterator[str]:
    if not report.records:
        yield "There are no records."
        return
    count = "1 record" if report.records == 1 else f"{report.records:,} records"
    times = f", from {report.first_time} to {report.last_time}" if report.last_hash else ""
    yield f"{count}{times}."
    if report.is_intact:
        yield "All records are intact and in order."
    else:
        yield "The audit log was changed after it was written."
    if not report.last_hash:
        return
    yield f"Hash of the last record: {report.last_hash}"
    yield (
        "Records removed from the end can't be detected from the log alone: keep this hash "
        "somewhere else and pass it to the next check with --expect."
    )


def _line(problem: Problem) -> str:
    places = (
        f"line {problem.line}" if problem.line is not None else "",
        f"record {problem.seq}" if problem.seq is not None else "",
    )
    where = ", ".join(place for place in places if place)
    word = "Note" if problem.kind == "partial" else "Problem"
    return f"{word}: {where}: {problem.what}" if where else f"{word}: {problem.what}"


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of a file, with its number; or a row of a database, with its other columns."""

    body: bytes
    line: int | None = None
    columns: dict[str, Json] | None = None


def _rows(path: Path) -> Iterator[_Row]:
    try:
        if not _is_database(path):
            with path.open("rb") as file:
                yield from (_Row(raw.removesuffix(b"\n"), at) for at, raw in enumerate(file, 1))
            return
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"The audit log {path} can't be read: {error}") from error
    for line, columns in AuditReader(path).columns():
        yield _Row(line, columns=columns)


def _is_database(path: Path) -> bool:
    """Whether SQLite takes a file for a database.

    SQLite itself says so: to open the file here and close it again would drop the locks that this
    process may have on it.
    """
    if not path.stat().st_size:
        return False
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as database:
        try:
            database.execute("PRAGMA schema_version")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                return False
            raise
    return True


class _Inspection:
    """The inspection of one log; `expect` is the hash of a record that must be in it, or empty."""

    def __init__(self, expect: str) -> None:
        self._expect = expect
        self._is_expected_met = not expect
        self._intact = START  # the last intact record
        self._claimed = START  # the last one, going by what it says of itself
        self._unreadable: list[_Row] = []  # since the last intact record
        self._begun: dict[str, tuple[_Row, int | None]] = {}
        self._times: list[str] = []  # the first and the last
        self._records = 0
        self._problems: list[Problem] = []
        self._notes: list[Problem] = []

    def take(self, row: _Row) -> None:
        """Look at the next row."""
        record = parse(row.body)
        if record is None:
            self._unreadable.append(row)
            return
        self._records += 1
        link = link_of(record)
        if link is None or not is_intact(row.body, record):
            self._claimed = link or Link(self._claimed.seq + 1, "")
            what = "it was edited: its hash does not match its content"
            self._add("tampering", row, link and link.seq, what)
        else:
            self._take_intact(row, record, link)
        self._pair(row, record)

    def report(self) -> Report:
        """Return the report, once every row was taken."""
        for row in self._unreadable:
            self._add("torn", row, None, "it was never written completely, or was damaged since")
        for row, seq in self._begun.values():
            what = "a change has no recorded end: it is in progress, or its end was lost"
            self._add("unfinished", row, seq, what)
        if not self._is_expected_met:
            what = "no record has the expected hash: the log was cut off at its end, or rewritten"
            self._problems.append(Problem("tampering", None, None, what))
        first, last = (self._times[0], self._times[-1]) if self._times else ("", "")
        return Report(
            records=self._records,
            first_time=first,
            last_time=last,
            last_hash=self._intact.hash if self._times else "",
            problems=tuple(self._problems),
            notes=tuple(self._notes),
        )

    def _take_intact(self, row: _Row, record: Fields, link: Link) -> None:
        for unreadable in self._unreadable:
            self._add("tampering", unreadable, None, "it was edited or inserted: it can't be read")
        self._unreadable.clear()
        last = {(known.seq + 1, known.hash) for known in (self._intact, self._claimed)}
        if row.line == 1 and link.seq > 1:
            what = f"begins at record {link.seq}; earlier records are not in this file"
            self._notes.append(Problem("partial", None, None, what))
        elif (link.seq, record.get("prev")) not in last:
            self._add("tampering", row, link.seq, self._displacement(link.seq))
        if row.columns is not None and any(record.get(k) != v for k, v in row.columns.items()):
            self._add("tampering", row, link.seq, "its columns were edited: its body differs")
        self._intact = self._claimed = link
        self._is_expected_met = self._is_expected_met or link.hash == self._expect
        self._times[1:] = [one_line(str(record.get("time", "")), _LONGEST_TIME)]

    def _displacement(self, seq: int) -> str:
        due = self._claimed.seq + 1
        if seq == due:
            return "the record before it was edited, removed or replaced: it continues another"
        if seq < due:
            return "it was repeated, inserted, or moved"
        missing = f"record {due} is" if seq == due + 1 else f"records {due} to {seq - 1} are"
        return f"{missing} missing before it"

    def _pair(self, row: _Row, record: Fields) -> None:
        identifier, link = str(record.get("id")), link_of(record)
        seq = link and link.seq
        if record.get("phase") == "before":
            self._begun[identifier] = row, seq
        elif record.get("phase") == "after" and self._begun.pop(identifier, None) is None:
            self._add("unfinished", row, seq, "a change ended whose beginning is not in this log")

    def _add(self, kind: ProblemKind, row: _Row, seq: int | None, what: str) -> None:
        self._problems.append(Problem(kind, row.line, seq, what))
