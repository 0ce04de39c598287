"""Report what checking a log has found."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ProblemKind = Literal["tampering", "torn", "unfinished", "recovered", "partial"]
"""What is wrong.

- `tampering`: a record was edited, removed, inserted, moved or repeated
- `torn`: the last line of a file was never written completely
- `unfinished`: a change has only one of its two records: it is in progress, or its end is lost
- `recovered`: a torn line that a later record accounts for; only ever a note
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
    """What a log holds; times are those of its first and last sound record, ISO 8601 UTC.

    `notes` are what is no problem. Keep `last_hash` somewhere else: a later check can be told to
    expect it. Times and hash are "" if there is no sound record.
    """

    records: int
    first_time: str
    last_time: str
    last_hash: str
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    @property
    def is_intact(self) -> bool:
        """Whether every record is as it was written. Changes may still be unfinished."""
        return all(problem.kind == "unfinished" for problem in self.problems)


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
    word = "Note" if problem.kind in ("recovered", "partial") else "Problem"
    return f"{word}: {where}: {problem.what}" if where else f"{word}: {problem.what}"
