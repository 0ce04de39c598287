import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calls_mcp.audit.records import START, Link, chain
from calls_mcp.audit.verification import describe, verify
from calls_mcp.errors import ConfigurationError
from tests.audit.logs import append, database_log, exported_log, fields, spoil

NAN = b'{"seq":1,"time":NaN,"hash":""}\n'
Lines = list[bytes]
Spoiler = Callable[[Lines, st.DataObject], Lines]


def one_of(lines: Lines, data: st.DataObject, *, but_last: int = 0) -> int:
    return data.draw(st.integers(0, len(lines) - 1 - but_last), label="line")


def edit(lines: Lines, data: st.DataObject) -> Lines:
    """Change any byte, even a line feed."""
    at = one_of(lines, data)
    place = data.draw(st.integers(0, len(lines[at]) - 1), label="place")
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != lines[at][place]), label="byte")
    edited = lines[at][:place] + bytes([byte]) + lines[at][place + 1 :]
    return [*lines[:at], edited, *lines[at + 1 :]]


def set_field(lines: Lines, data: st.DataObject) -> Lines:
    """Change a field and its record's hash. In the last record, this can't be detected."""
    at = one_of(lines, data, but_last=1)
    record: dict[str, Any] = json.loads(lines[at])
    name = data.draw(st.sampled_from(["time", "id", "sid", "arguments"]), label="field")
    last = Link(record["seq"] - 1, record["prev"])
    edited = chain({**record, name: data.draw(st.text().map(lambda t: f"!{t}"))}, last)
    return [*lines[:at], edited.line.encode() + b"\n", *lines[at + 1 :]]


def write_differently(lines: Lines, data: st.DataObject) -> Lines:
    """Write a record in another form, which could hide a repeated name."""
    at = one_of(lines, data)
    twice = b'{"seq":7,' + lines[at][1:]
    spaced = json.dumps(json.loads(lines[at])).encode() + b"\n"
    return [*lines[:at], data.draw(st.sampled_from([twice, spaced])), *lines[at + 1 :]]


def remove(lines: Lines, data: st.DataObject) -> Lines:
    """Any record except the first and the last."""
    at = data.draw(st.integers(1, max(1, len(lines) - 2)), label="line")
    return [*lines[:at], *lines[at + 1 :]]


def swap(lines: Lines, data: st.DataObject) -> Lines:
    one, other = data.draw(
        st.permutations(range(len(lines))).map(lambda order: sorted(order[:2])), label="pair"
    )
    swapped = [*lines]
    swapped[one], swapped[other] = lines[other], lines[one]
    return swapped


def repeat(lines: Lines, data: st.DataObject) -> Lines:
    at, to = one_of(lines, data), one_of(lines, data)
    return [*lines[:to], lines[at], *lines[to:]] if at != to else [*lines, lines[at]]


def insert(lines: Lines, data: st.DataObject) -> Lines:
    """Insert a record that continues the one before it, or any other line."""
    at = one_of(lines, data, but_last=1)
    link = json.loads(lines[at])
    forged = chain(fields(9), Link(link["seq"], link["hash"])).line.encode() + b"\n"
    line = data.draw(st.sampled_from([forged, b"\n", b"{}\n", b"[]\n", NAN]))
    return [*lines[: at + 1], line, *lines[at + 1 :]]


SPOILERS: list[Spoiler] = [edit, set_field, write_differently, remove, swap, repeat, insert]


@given(count=st.integers(3, 7), spoiler=st.sampled_from(SPOILERS), data=st.data())
@settings(deadline=None, max_examples=100)
def test_every_manipulation_of_a_line_is_found(
    count: int, spoiler: Spoiler, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = exported_log(Path(directory), count)
        assert verify(path).problems == ()
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(spoiler(lines, data)))
        report = verify(path)
    assert not report.is_intact
    assert (
        "The audit log was changed after it was written." in describe(report) or not report.records
    )


DATABASE_SPOILERS = (
    "UPDATE audit SET time = 'never' WHERE seq = ?",
    "UPDATE audit SET tool = NULL WHERE seq = ?",
    "UPDATE audit SET sid = x'ff' WHERE seq = ?",
    "UPDATE audit SET prev = hash WHERE seq = ?",
    "UPDATE audit SET hash = prev WHERE seq = ?",
    "UPDATE audit SET seq = 99 WHERE seq = ?",
    "UPDATE audit SET body = replace(body, '+1617', '+1618') WHERE seq = ?",
    "UPDATE audit SET body = '' WHERE seq = ?",
    "UPDATE audit SET body = 7 WHERE seq = ?",
    "DELETE FROM audit WHERE seq = ?",
    "INSERT INTO audit SELECT 0, time, tool, sid, prev, hash, body FROM audit WHERE seq = ?",
    "INSERT INTO audit SELECT 99, time, tool, sid, prev, hash, body FROM audit WHERE seq = ?",
)


@given(at=st.integers(1, 3), statement=st.sampled_from(DATABASE_SPOILERS))
@settings(deadline=None, max_examples=40)
def test_every_manipulation_of_a_row_is_found(at: int, statement: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = database_log(Path(directory), 4)
        assert verify(path).problems == ()
        spoil(path, statement, [at])
        assert not verify(path).is_intact


@pytest.mark.parametrize("write", [exported_log, database_log])
def test_records_removed_from_the_end_are_found_with_an_expected_hash(
    tmp_path: Path, write: Callable[[Path, int], Path]
) -> None:
    path = write(tmp_path, 4)
    last = verify(path).last_hash
    for known in (last.upper(), chain(fields(0), START).link.hash):
        assert verify(path, expect=known).problems == ()
    if write is exported_log:
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    else:
        spoil(path, "DELETE FROM audit WHERE seq = 4")
    assert verify(path).is_intact
    assert not verify(path, expect=last).is_intact


def test_an_unfinished_change_is_reported_but_is_not_tampering(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    phases = enumerate(("before", "before", "after"))
    append(path, *({**fields(at, phase), "id": str(at % 2)} for at, phase in phases))
    append(path, {**fields(4, "after"), "id": "another"})
    report = verify(path)
    assert [(p.kind, p.seq) for p in report.problems] == [("unfinished", 4), ("unfinished", 2)]
    assert report.is_intact


def test_missing_records_are_named(tmp_path: Path) -> None:
    path = exported_log(tmp_path, 6)
    one, _, three, *_, six = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(one + three + six)
    assert [(p.line, p.seq, p.what) for p in verify(path).problems] == [
        (2, 3, "record 2 is missing"),
        (3, 6, "records 4 to 5 are missing"),
    ]


def test_a_file_may_begin_with_a_later_record_but_a_database_may_not(
    tmp_path: Path,
) -> None:
    path = exported_log(tmp_path, 4)
    part = path.read_bytes().splitlines(keepends=True)[2:]
    path.write_bytes(b"".join(part))
    report = verify(path)
    assert report.is_intact
    assert [note.what for note in report.notes] == ["this file begins at record 3"]
    path.write_bytes(b"".join(part).replace(b'"id":"0003"', b'"id":"0009"'))
    assert not verify(path).is_intact
    database = database_log(tmp_path, 4)
    spoil(database, "DELETE FROM audit WHERE seq < 3")
    assert [(p.kind, p.what) for p in verify(database).problems] == [
        ("tampering", "records 1 to 2 are missing")
    ]


def test_a_log_without_intact_records_has_no_times_and_no_hash(tmp_path: Path) -> None:
    path = exported_log(tmp_path, 1)
    path.write_bytes(path.read_bytes().replace(b"create_call", b"delete_call"))
    assert describe(verify(path)) == [
        "1 record.",
        "The audit log was changed after it was written.",
        "Problem: line 1, record 1: its hash does not match its content, so it was edited",
    ]


def test_one_edit_is_reported_once(tmp_path: Path) -> None:
    path = exported_log(tmp_path, 5)
    path.write_bytes(path.read_bytes().replace(b'"id":"0002"', b'"id":"0009"'))
    (problem,) = verify(path).problems
    assert (problem.kind, problem.line, problem.seq) == ("tampering", 3, 3)


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"seq":1,"hash":7}', b"\xff", b"9" * 9999, NAN])
def test_lines_that_are_not_records_do_not_stop_the_check(tmp_path: Path, line: bytes) -> None:
    path = exported_log(tmp_path, 2)
    path.write_bytes(line + b"\n" + path.read_bytes() + line)
    assert not verify(path).is_intact


def test_a_report_is_described_in_plain_words(tmp_path: Path) -> None:
    path = exported_log(tmp_path, 2)
    last = json.loads(path.read_bytes().splitlines()[-1])
    assert describe(verify(path))[:3] == [
        "2 records, from 2026-01-31T09:00:00.000Z to 2026-01-31T09:00:01.000Z.",
        "All records are intact and in order.",
        f"Hash of the last record: {last['hash']}",
    ]
    path.write_bytes(path.read_bytes()[:-9])
    torn, unexpected = describe(verify(path, expect="0"))[-2:]
    assert torn == "Problem: line 2: it was never written completely, or was damaged later"
    assert unexpected == (
        "Problem: no record has the expected hash: records were removed from the end, or the log "
        "was rewritten"
    )


@pytest.mark.parametrize("text", [b"# A page\n\nText\n", b'{"level": "INFO"}\n' * 3, b"\0\1", b"x"])
def test_a_file_that_is_not_an_audit_log_gets_one_sentence(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "page.md"
    path.write_bytes(text)
    report = verify(path)
    assert not report.is_intact
    assert describe(report) == [
        "No record can be read: this is not an audit log, or it is damaged."
    ]


def test_an_empty_log_has_no_problems(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.touch()
    assert (verify(path).problems, describe(verify(path))) == ((), ["There are no records."])


def test_an_unreadable_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.jsonl can't be read: .*No such file"):
        verify(tmp_path / "none.jsonl")
    with pytest.raises(ConfigurationError, match="can't be read: it is a directory"):
        verify(tmp_path)
    other = database_log(tmp_path, 1)
    header = other.read_bytes()[:100]
    other.write_bytes(header + b"x" * 5000)
    with pytest.raises(ConfigurationError, match="can't be read"):
        verify(other)


@pytest.mark.process
def test_checking_a_log_keeps_the_locks_of_its_writer_in_this_process(tmp_path: Path) -> None:
    path = database_log(tmp_path, 3)
    begin = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=0)\n"
    begin += "db.execute('BEGIN IMMEDIATE')"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert verify(path).is_intact
        another = [sys.executable, "-c", begin, str(path)]
        told = subprocess.run(another, capture_output=True, check=False)  # noqa: S603
    assert b"database is locked" in told.stderr
