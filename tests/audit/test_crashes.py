"""Several processes write one log; some of them die."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from calls_mcp.audit.verification import verify
from tests.audit.logs import database_log
from tests.records import lines_in, records_in

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and limits")

ROOT = Path(__file__).parents[2]


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


def test_processes_that_write_at_once_leave_a_whole_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    with ExitStack() as stack:
        processes = [stack.enter_context(writer("all", path, 100)) for _ in range(3)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        assert [process.wait(90) for process in processes] == [0, 0, 0]
    report = verify(path)
    assert (report.records, report.problems, report.notes) == (600, (), ())
    assert [record["seq"] for record in records_in(path)] == [*range(1, 601)]


def test_a_writer_that_is_killed_midway_leaves_a_whole_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    run_writer("all", path, 2)
    assert run_writer("half", path, 1)[0] == -signal.SIGKILL
    assert (verify(path).records, verify(path).problems) == (4, ())
    run_writer("all", path, 2)
    assert (verify(path).records, verify(path).problems) == (8, ())


def test_a_full_disk_refuses_changes_and_leaves_whole_records(tmp_path: Path) -> None:
    path = database_log(tmp_path, 3)
    before = lines_in(path)
    status, output = run_writer("full", path, 4096)
    assert (status, lines_in(path)) == (0, before)
    assert b"changes are refused" in output
    assert verify(path).problems == ()
