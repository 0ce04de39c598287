"""What was answered is kept, whoever else writes and whatever becomes of the process."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from calls_mcp.emulator import CallStore

PROCESSES, CALLS = 8, 25


@contextmanager
def writing(database: Path, count: int) -> Generator["subprocess.Popen[str]"]:
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "tests.emulator.writer", str(database), str(count)],
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def kept(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with closing(CallStore(str(database), time.time)) as store:
        return [call.sid for call in store.all()]


@pytest.mark.process
def test_eight_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    database = tmp_path / "calls.sqlite"
    with ExitStack() as stack:
        crew = [stack.enter_context(writing(database, CALLS)) for _ in range(PROCESSES)]
        told = [process.communicate(timeout=100)[0] for process in crew]
    answered = [sid for text in told for sid in text.split()]
    assert len({*answered}) == PROCESSES * CALLS
    assert {*kept(database)} == {*answered}


def test_a_new_file_is_opened_while_another_process_is_busy_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "calls.sqlite"
    turned_away = Event()

    class Watched(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:  # noqa: ANN401 - as there
            try:
                return super().execute(*arguments)
            except sqlite3.OperationalError:
                turned_away.set()
                raise

    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr("sqlite3.connect", partial(sqlite3.connect, factory=Watched))
        monkeypatch.setattr("calls_mcp.emulator.call_store.PATIENCE", 0)
        with ThreadPoolExecutor() as pool:
            opened = pool.submit(CallStore, str(database), time.time)
            assert turned_away.wait(30)
            other.execute("ROLLBACK")
            with closing(opened.result(30)) as store:
                assert store.count() == 0


@pytest.mark.process
@pytest.mark.parametrize("after", [1, 5, 20])
def test_what_was_answered_survives_kill_9(tmp_path: Path, after: int) -> None:
    database = tmp_path / "calls.sqlite"
    with writing(database, 1_000_000) as process:
        assert process.stdout
        answered = [process.stdout.readline().strip() for _ in range(after)]
        process.kill()
        answered += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert len(answered) >= after
    assert {*answered} <= {*kept(database)}
    assert len(kept(database)) <= len(answered) + 1  # the last one's answer may be lost
    with writing(database, 1) as process:
        another = process.communicate(timeout=60)[0].strip()
    assert kept(database)[0] == another
