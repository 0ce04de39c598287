"""What a check of a log comes to."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ProblemKind = Literal["tampering", "torn", "unfinished", "recovered"]
"""What is wrong.

- `tampering`: a record was edited, removed, put in, moved or repeated
- `torn`: a line at the end was never written whole, and no record has come behind it since
- `unfinished`: a change has only one of its two records: it is under way, or its end is lost
- `recovered`: a torn line that the next writer told of; only ever a note
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a log, in its `line` (from 1; None in a database) or at record `seq`."""

    kind: ProblemKind
    line: int | None
    seq: int | None
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """A log as it was found; times are those of its first and last record, ISO 8601 UTC.

    `notes` tell of torn lines that were recovered from. `last_hash`, kept somewhere else, is what
    a later check can be told to expect.
    """

    records: int
    first_time: str
    last_time: str
    last_hash: str
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    @property
    def is_intact(self) -> bool:
        """Whether every record is as it was written. Changes may be unfinished all the same."""
        return all(problem.kind == "unfinished" for problem in self.problems)


def describe(report: Report) -> list[str]:
    """The report in plain words, a line each."""
    return [*_summary(report), *(_told(entry) for entry in (*report.problems, *report.notes))]


def _summary(report: Report) -> Iterator[str]:
    if not report.records:
        yield "There are no records."
        return
    count = "1 record" if report.records == 1 else f"{report.records:,} records"
    yield f"{count}, from {report.first_time} to {report.last_time}."
    if report.is_intact:
        yield "Each is as it was written, and in its place."
    else:
        yield "The log is NOT as it was written."
    yield f"Hash of the last record: {report.last_hash}"
    yield (
        "Whether records were cut off the end can't be seen from the log alone: keep this hash "
        "elsewhere, and give it to the next check with --expect."
    )


def _told(problem: Problem) -> str:
    places = (
        f"line {problem.line}" if problem.line is not None else "",
        f"record {problem.seq}" if problem.seq is not None else "",
    )
    where = ", ".join(place for place in places if place)
    word = "Note" if problem.kind == "recovered" else "Problem"
    return f"{word}: {where}: {problem.what}" if where else f"{word}: {problem.what}"
