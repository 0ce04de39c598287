"""Several processes write one log; some of them die."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from calls_mcp.audit import verify
from calls_mcp.audit.chain import Link, seal
from calls_mcp.audit.lines import LinesFile
from tests.audit.logs import fields, fill, lines_log, records_in

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and limits")

ROOT = Path(__file__).parents[2]
LOGS = ("audit.jsonl", "audit.db")


@contextmanager
def writer(mode: str, path: Path, count: int) -> Generator[subprocess.Popen[bytes]]:
    """A process that is ready to write, and does so once it is sent a line."""
    command = [sys.executable, "-m", "tests.audit.writer", mode, str(path), str(count)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(  # noqa: S603  # our own module
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process


def run_writer(mode: str, path: Path, count: int) -> tuple[int, bytes]:
    """Exit status and output of a process that writes."""
    with writer(mode, path, count) as process:
        output, _ = process.communicate(b"go\n", timeout=60)
    return process.returncode, output


@pytest.mark.parametrize("name", LOGS)
def test_processes_that_write_at_once_leave_a_whole_chain(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with ExitStack() as stack:
        processes = [stack.enter_context(writer("all", path, 100)) for _ in range(4)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        assert [process.wait(90) for process in processes] == [0, 0, 0, 0]
    report = verify(path)
    assert (report.records, report.problems, report.notes) == (800, (), ())
    assert [record["seq"] for record in records_in(path)] == [*range(1, 801)]


def test_the_next_writer_recovers_from_one_that_was_killed_midway(tmp_path: Path) -> None:
    path = lines_log(tmp_path, 3)
    status, _ = run_writer("half", path, 1)
    assert status == -signal.SIGKILL
    assert not path.read_bytes().endswith(b"\n")
    assert [problem.kind for problem in verify(path).problems] == ["torn"]
    status, _ = run_writer("all", path, 1)
    report = verify(path)
    assert (status, report.records, report.problems) == (0, 6, ())
    (note,) = report.notes
    assert (note.kind, note.line, note.seq) == ("recovered", 5, 4)


def test_a_database_recovers_from_a_writer_that_was_killed_midway(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    run_writer("all", path, 2)
    assert run_writer("half", path, 1)[0] == -signal.SIGKILL
    run_writer("all", path, 2)
    assert (verify(path).records, verify(path).problems) == (8, ())


def test_a_full_disk_refuses_changes_and_leaves_whole_records(tmp_path: Path) -> None:
    path = lines_log(tmp_path, 3)
    before = path.read_bytes()
    status, output = run_writer("full", path, len(before) + 100)
    assert (status, path.read_bytes()) == (0, before)
    assert b"File too large" in output


def is_recovered_from(path: Path, torn: bytes) -> None:
    path.write_bytes(torn)
    fill(LinesFile(path), 1, first=7)
    report = verify(path)
    assert report.is_intact
    assert len(report.notes) == 1
    assert b"".join(path.read_bytes().split(b"\n")).startswith(torn.replace(b"\n", b""))


def test_a_record_torn_at_any_byte_is_recovered_from(tmp_path: Path) -> None:
    path = lines_log(tmp_path, 2)
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for cut in range(start + 1, len(whole) - 1):
        is_recovered_from(path, whole[:cut])


def test_a_recovery_torn_at_any_byte_is_recovered_from(tmp_path: Path) -> None:
    path = lines_log(tmp_path, 1)
    torn = path.read_bytes() + b'{"seq":2,"ti'
    path.write_bytes(torn)
    LinesFile(path).append(fields())
    recovery = path.read_bytes().splitlines(keepends=True)[2]
    for cut in range(len(recovery) - 1):
        is_recovered_from(path, torn + b"\n" + recovery[:cut])


def test_a_first_record_that_is_torn_is_recovered_from(tmp_path: Path) -> None:
    path = lines_log(tmp_path, 1)
    is_recovered_from(path, path.read_bytes()[:-9])
    assert [record["seq"] for record in verify_lines(path)] == [1, 2]


def verify_lines(path: Path) -> list[dict[str, object]]:
    """The records behind a torn first line."""
    rest = path.with_suffix(".rest")
    rest.write_bytes(path.read_bytes().partition(b"\n")[2])
    return records_in(rest)


def test_a_record_that_only_lacks_its_line_feed_is_whole(tmp_path: Path) -> None:
    path = lines_log(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:-1])
    assert verify(path).problems == ()
    fill(LinesFile(path), 1)
    assert (verify(path).records, verify(path).problems, verify(path).notes) == (4, (), ())


def test_the_last_whole_record_is_found_behind_much_that_is_torn(tmp_path: Path) -> None:
    path = lines_log(tmp_path, 3)
    is_recovered_from(path, path.read_bytes() + b"\0" * 300_000)


def test_an_edited_last_record_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    path = lines_log(tmp_path, 3)
    path.write_bytes(path.read_bytes().replace(b'"id":"0002"', b'"id":"0009"'))
    fill(LinesFile(path), 1)
    assert [problem.kind for problem in verify(path).problems] == ["tampering"]


def test_what_is_told_of_a_torn_line_must_hold(tmp_path: Path) -> None:
    path = lines_log(tmp_path, 2)
    path.write_bytes(path.read_bytes() + b'{"seq":3')
    fill(LinesFile(path), 1)
    *lines, torn, recovered, last = path.read_bytes().splitlines(keepends=True)
    for spoilt in ([], [b"{}"], [torn, b"\n"], [torn.replace(b"3", b"4")]):
        path.write_bytes(b"".join([*lines, *spoilt, recovered, last]))
        assert not verify(path).is_intact


def test_a_recovery_that_tells_of_nothing_is_found(tmp_path: Path) -> None:
    path = lines_log(tmp_path, 1)
    (record,) = records_in(path)
    forged = seal({"phase": "recovered"}, Link(1, record["hash"])).line.encode()
    path.write_bytes(path.read_bytes() + forged)
    assert not verify(path).is_intact
