"""Check that a log was not changed, by following its chain from record to record."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from calls_mcp.audit.records import START, Fields, Link, is_intact, link_of, parse
from calls_mcp.audit.search import AuditReader
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability.redaction import one_line
from calls_mcp.storage.interface import error_text
from calls_mcp.tools.catalog import Json

_LONGEST_TIME = 32  # characters
_HEADER = 100  # bytes; SQLite takes some shorter files for an empty database
_NO_LOG = "No record can be read: this is not an audit log, or it is damaged."
_BATCH, _PAUSE = 50, 0.0001  # records between two pauses, and seconds

ProblemKind = Literal["tampering", "torn", "unfinished", "partial"]
"""What is wrong.

- `tampering`: a record was edited, removed, inserted, moved or repeated
- `torn`: the last line of a file is incomplete
- `unfinished`: a change has only one of its two records: it is in progress, or a record is missing
- `partial`: a file of lines does not begin with the first record; this is always a note
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
    """The result of checking a log. Times are those of its first and last intact record.

    `notes` are not problems. Keep `last_hash` somewhere else, and pass it to a later check. Times
    (ISO 8601 UTC) and hash are "" if there is no intact record.
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


def verify(
    path: Path, expect: str | None = None, *, show: Callable[[int], None] = lambda _: None
) -> Report:
    """Check a log: an SQLite database, even while servers write to it, or a file of JSON lines.

    This finds records that were edited, removed, inserted, moved or repeated, incomplete lines, and
    changes with only one of their two records. The log alone does not show that records were
    removed from its end, or that everything after some record was rewritten with new hashes. So
    keep a `last_hash` somewhere else and pass it as `expect`: if a record has this hash, all
    records up to it are intact. `show` gets the number of records so far.

    A database must begin with the first record. A file of lines may begin with a later one, as an
    export from a given time does. The report notes that.

    Raises:
        ConfigurationError: The log can't be read.
    """
    inspection = _Inspection((expect or "").strip().lower())
    for number, row in enumerate(_rows(path)):
        inspection.take(row)
        if number % _BATCH == 0:
            show(number)
    return inspection.report()


class ChainVerifier:
    """Verifies the database at `path` repeatedly, and reads only new records in between.

    It remembers the last record, so it also finds that records were removed from the end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._expect = ""
        self._inspection = _Inspection("")

    def verify(self, *, is_whole: bool) -> Report:
        """Check the new records, or all if `is_whole` or if the last known one is gone.

        This leaves other threads of the process enough time to run.

        Raises:
            ConfigurationError: The log can't be read.
        """
        if is_whole or not AuditReader(self._path).has(self._inspection.last):
            self._inspection = _Inspection(self._expect)
        for number, row in enumerate(_rows(self._path, self._inspection.last_row)):
            self._inspection.take(row)
            if number % _BATCH == 0:
                time.sleep(_PAUSE)  # otherwise other threads wait 5 ms for each switch
        report = self._inspection.report()
        self._expect = report.last_hash if report.is_intact else self._expect
        return report


def describe(report: Report) -> list[str]:
    """Return the report as lines of text."""
    problems = (each for each in report.problems if each.kind != "torn" or report.records)
    return [*_summary(report), *map(_line, (*problems, *report.notes))]


def _summary(report: Report) -> Iterator[str]:
    if not report.records:
        is_empty = all(problem.kind != "torn" for problem in report.problems)
        yield "There are no records." if is_empty else _NO_LOG
        return
    count = "1 record" if report.records == 1 else f"{report.records:,} records"
    times = f", from {report.first_time} to {report.last_time}" if report.last_hash else ""
    yield f"{count}{times}."
    if not report.is_intact:
        yield "The audit log was changed after it was written."
        return
    yield "All records are intact and in order."
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


def _rows(path: Path, after: int | None = None) -> Iterator[_Row]:
    """Yield the lines of a file, or the rows of a database with numbers above `after`."""
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a directory")
        if not _is_database(path):
            with path.open("rb") as file:
                yield from (_Row(raw.removesuffix(b"\n"), at) for at, raw in enumerate(file, 1))
            return
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(
            f"The audit log {path} can't be read: {error_text(error)}"
        ) from error
    for line, columns in AuditReader(path).columns(after):
        yield _Row(line, columns=columns)


def _is_database(path: Path) -> bool:
    """Return whether a file is an SQLite database.

    SQLite checks it, because opening and closing the file here would drop the locks that this
    process may have on it.
    """
    if path.stat().st_size < _HEADER:
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
    """The state of checking one log. A record must have the hash `expect`, unless it is empty."""

    def __init__(self, expect: str) -> None:
        self._expect = expect
        self._is_expected_met = not expect
        self.last_row: int | None = None
        self._intact = START  # the last intact record
        self._claimed = START  # the last record's own link, which may be wrong
        self._unreadable: list[_Row] = []  # since the last intact record
        self._begun: dict[str, tuple[_Row, int]] = {}
        self._times: list[str] = []  # the first and the last
        self._records = 0
        self._problems: list[Problem] = []
        self._notes: list[Problem] = []

    @property
    def last(self) -> Link:
        """The link of the last intact record."""
        return self._intact

    def take(self, row: _Row) -> None:
        """Check the next row."""
        self.last_row = cast("int", row.columns["seq"]) if row.columns else None
        record = parse(row.body)
        link = link_of(record) if record else None
        if record is None or link is None:
            self._unreadable.append(row)
            return
        self._records += 1
        if is_intact(row.body, record):
            self._take_intact(row, record, link)
        else:
            self._claimed = link
            what = "its hash does not match its content, so it was edited"
            self._add("tampering", row, link.seq, what)
        self._pair(row, record, link.seq)

    def report(self) -> Report:
        """Return the report about the rows so far."""
        first, last = (self._times[0], self._times[-1]) if self._times else ("", "")
        return Report(
            records=self._records,
            first_time=first,
            last_time=last,
            last_hash=self._intact.hash if self._times else "",
            problems=(*self._problems, *self._open_problems()),
            notes=tuple(self._notes),
        )

    def _open_problems(self) -> Iterator[Problem]:
        """Yield the problems that later rows may solve or turn into another problem."""
        for row in self._unreadable:
            what = "it was never written completely, or was damaged later"
            yield Problem("torn", row.line, None, what)
        for row, seq in self._begun.values():
            what = "this change has no result: it is in progress, or its result was not recorded"
            yield Problem("unfinished", row.line, seq, what)
        if not self._is_expected_met:
            what = (
                "no record has the expected hash: records were removed from the end, or the log "
                "was rewritten"
            )
            yield Problem("tampering", None, None, what)

    def _take_intact(self, row: _Row, record: Fields, link: Link) -> None:
        for unreadable in self._unreadable:
            what = "it is not a record, so it was edited or inserted"
            self._add("tampering", unreadable, None, what)
        self._unreadable.clear()
        last = {(known.seq + 1, known.hash) for known in (self._intact, self._claimed)}
        if row.line == 1 and link.seq > 1:
            what = f"this file begins at record {link.seq}"
            self._notes.append(Problem("partial", None, None, what))
        elif (link.seq, record.get("prev")) not in last:
            self._add("tampering", row, link.seq, self._displacement(link.seq))
        if row.columns is not None and any(record.get(k) != v for k, v in row.columns.items()):
            self._add(
                "tampering", row, link.seq, "its columns do not match its content, so it was edited"
            )
        self._intact = self._claimed = link
        self._is_expected_met = self._is_expected_met or link.hash == self._expect
        self._times[1:] = [one_line(str(record.get("time", "")), _LONGEST_TIME)]

    def _displacement(self, seq: int) -> str:
        due = self._claimed.seq + 1
        if seq == due:
            return "it does not match the previous record, which was edited, removed or replaced"
        if seq < due:
            return "it was repeated, inserted or moved"
        missing = f"record {due} is" if seq == due + 1 else f"records {due} to {seq - 1} are"
        return f"{missing} missing"

    def _pair(self, row: _Row, record: Fields, seq: int) -> None:
        identifier = str(record.get("id"))
        if record.get("phase") == "before":
            self._begun[identifier] = row, seq
        elif record.get("phase") == "after" and self._begun.pop(identifier, None) is None:
            self._add("unfinished", row, seq, "the first record of this change is not in this log")

    def _add(self, kind: ProblemKind, row: _Row, seq: int | None, what: str) -> None:
        self._problems.append(Problem(kind, row.line, seq, what))
