"""Follows a chain from record to record, and notes each place where it does not hold."""

import hashlib
from dataclasses import dataclass, field

from calls_mcp.audit.chain import START, Fields, Link, is_sound, parse, place
from calls_mcp.audit.report import Problem, ProblemKind, Report
from calls_mcp.catalog import Json
from calls_mcp.redaction import one_line

_LONGEST_TIME = 32

Columns = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a file, with its number and line feed; or a row of a database, with its columns."""

    raw: bytes
    line: int | None = None
    columns: Columns | None = None

    @property
    def body(self) -> bytes:
        """The record, if it is one."""
        return self.raw.removesuffix(b"\n")


@dataclass(slots=True)
class _Stretch:
    """What lies behind the last sound record: its bytes, and those of its rows that are no JSON."""

    raw: bytearray = field(default_factory=bytearray)
    unreadable: list[Row] = field(default_factory=list[Row])

    def is_told_of_by(self, record: Fields) -> bool:
        """Whether `record` is the one that was written when these bytes were found torn."""
        match record.get("arguments"):
            case {"torn_bytes": int(count), "torn_sha256": str(digest)} if count > 0:
                torn, rest = bytes(self.raw[:count]), bytes(self.raw[count:])
                return hashlib.sha256(torn).hexdigest() == digest and rest in (b"", b"\n")
            case _:
                return False


class Inspection:
    """The inspection of one log; `expect` is the hash of a record that must be in it, or empty."""

    def __init__(self, expect: str) -> None:
        self._expect = expect
        self._is_expected_met = not expect
        self._sound = START  # the last record that is as it was written
        self._claimed = START  # the last one, going by what it says of itself
        self._stretch = _Stretch()
        self._begun: dict[str, tuple[Row, int | None]] = {}
        self._times: list[str] = []  # the first and the last
        self._records = 0
        self._problems: list[Problem] = []
        self._notes: list[Problem] = []

    def take(self, row: Row) -> None:
        """Look at the next row."""
        record = parse(row.body)
        if record is None:
            self._stretch.raw += row.raw
            self._stretch.unreadable.append(row)
            return
        self._records += 1
        link = place(record)
        if link is None or not is_sound(row.body, record):
            self._take_edited(row, link)
        else:
            self._take_sound(row, record, link)
        self._pair(row, record)

    def report(self) -> Report:
        """The report, once every row was taken."""
        for row in self._stretch.unreadable:
            self._tell("torn", row, None, "it was never written whole, or has been damaged since")
        for row, seq in self._begun.values():
            what = "a change was begun, and its end is not recorded: it is under way, or was lost"
            self._tell("unfinished", row, seq, what)
        if not self._is_expected_met:
            what = "no record has the expected hash: the log was cut off at its end, or rewritten"
            self._problems.append(Problem("tampering", None, None, what))
        first, last = (self._times[0], self._times[-1]) if self._times else ("", "")
        return Report(
            records=self._records,
            first_time=first,
            last_time=last,
            last_hash=self._sound.hash,
            problems=tuple(self._problems),
            notes=tuple(self._notes),
        )

    def _take_edited(self, row: Row, link: Link | None) -> None:
        self._stretch.raw += row.raw
        self._claimed = link or Link(self._claimed.seq + 1, "")
        what = "it was edited: its hash is not that of what it says"
        self._tell("tampering", row, link.seq if link else None, what)

    def _take_sound(self, row: Row, record: Fields, link: Link) -> None:
        self._settle_stretch(row, record, link)
        last = {(known.seq + 1, known.hash) for known in (self._sound, self._claimed)}
        if (link.seq, record.get("prev")) not in last:
            self._tell("tampering", row, link.seq, self._displacement(link.seq))
        if row.columns is not None and any(record.get(k) != v for k, v in row.columns.items()):
            self._tell("tampering", row, link.seq, "its columns were edited: its body differs")
        self._sound = self._claimed = link
        self._is_expected_met = self._is_expected_met or link.hash == self._expect
        self._times[1:] = [one_line(str(record.get("time", "")), _LONGEST_TIME)]

    def _settle_stretch(self, row: Row, record: Fields, link: Link) -> None:
        stretch, self._stretch = self._stretch, _Stretch()
        if record.get("phase") != "recovered":
            self._tell_unreadable(stretch)
        elif stretch.is_told_of_by(record):
            what = "a record before it was never written whole: its writer was stopped midway"
            self._notes.append(Problem("recovered", row.line, link.seq, what))
        else:
            self._tell_unreadable(stretch)
            self._tell("tampering", row, link.seq, "the torn line that it tells of was edited")

    def _tell_unreadable(self, stretch: _Stretch) -> None:
        for row in stretch.unreadable:
            self._tell("tampering", row, None, "it was edited or put in: it can't be read")

    def _displacement(self, seq: int) -> str:
        due = self._claimed.seq + 1
        if seq == due:
            return "the record before it was edited, removed or replaced: it continues another"
        if seq < due:
            return "it was repeated, put in, or moved from its place"
        missing = f"record {due} is" if seq == due + 1 else f"records {due} to {seq - 1} are"
        return f"{missing} missing before it"

    def _pair(self, row: Row, record: Fields) -> None:
        identifier, link = str(record.get("id")), place(record)
        seq = link.seq if link else None
        if record.get("phase") == "before":
            self._begun[identifier] = row, seq
        elif record.get("phase") == "after" and self._begun.pop(identifier, None) is None:
            self._tell("unfinished", row, seq, "a change ended whose beginning is not in this log")

    def _tell(self, kind: ProblemKind, row: Row, seq: int | None, what: str) -> None:
        self._problems.append(Problem(kind, row.line, seq, what))
