import asyncio
import json
import logging
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from calls_mcp.audit import AuditLog, AuditUnavailable, Ending, open_audit, verify
from calls_mcp.audit.chain import ORDER
from calls_mcp.audit.database import Database
from calls_mcp.audit.locking import locked
from calls_mcp.catalog import Json
from tests.audit.logs import ACCOUNT, ENTRY, SID, database_log, fields, lines_log, records_in

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("_quiet")]

NOBODY = 65534
DONE = Ending("done", http_status=201, sid=SID)


@pytest.fixture
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@contextmanager
def unprivileged() -> Generator[None]:
    """Not as root, who may write anywhere."""
    was = os.geteuid()
    os.seteuid(NOBODY if was == 0 else was)
    try:
        yield
    finally:
        os.seteuid(was)


async def write_change(log: AuditLog) -> None:
    assert await log.end(await log.begin(ENTRY), DONE)


@pytest.mark.requirement("41")
async def test_a_change_is_recorded_before_and_after(tmp_path: Path) -> None:
    file, database = tmp_path / "audit.jsonl", tmp_path / "audit.db"
    async with open_audit(file, database, clock=lambda: 1_700_000_000.1234) as log:
        attempt = await log.begin(ENTRY)
        (before,) = records_in(file)
        assert await log.end(attempt, DONE)
    _, after = records_in(file)
    assert records_in(database) == [before, after]
    assert before.pop("hash") == after["prev"]
    assert before == {
        "seq": 1,
        "time": "2023-11-14T22:13:20.123Z",
        "phase": "before",
        "id": attempt.id,
        "principal": "tester",
        "tool": "create_call",
        "action": "place",
        "effect": "place",
        "account_sid": ACCOUNT,
        "arguments": dict(ENTRY.arguments),
        "decision": "allowed",
        "rule": "confirm.place",
        "confirmed_by": "token",
        "trace_id": ENTRY.trace_id,
        "prev": "0" * 64,
    }
    assert (after["seq"], after["phase"], after["id"]) == (2, "after", attempt.id)
    assert (after["outcome"], after["http_status"], after["sid"]) == ("done", 201, SID)
    assert 0 <= after["duration_ms"] < 60_000
    assert [name for name in ORDER if name in after] == [*after]


async def test_a_refusal_leaves_one_record(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    async with open_audit(file, None) as log:
        await log.note(ENTRY)
    (record,) = records_in(file)
    assert record["phase"] == "decided"


async def test_a_log_goes_on_where_the_last_process_left_it(tmp_path: Path) -> None:
    file, database = tmp_path / "audit.jsonl", tmp_path / "audit.db"
    for _ in range(3):
        async with open_audit(file, database) as log:
            await write_change(log)
    for path in (file, database):
        assert [record["seq"] for record in records_in(path)] == [1, 2, 3, 4, 5, 6]
        assert verify(path).problems == ()


async def test_many_tasks_share_one_chain(tmp_path: Path) -> None:
    file, database = tmp_path / "audit.jsonl", tmp_path / "audit.db"
    async with open_audit(file, database) as log, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(write_change, log)
    for path in (file, database):
        assert (verify(path).records, verify(path).problems) == (40, ())


@pytest.mark.requirement("42")
async def test_without_a_place_records_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    async with open_audit(None, None) as log:
        await write_change(log)
    out, err = capsys.readouterr()
    first, second = map(json.loads, err.splitlines())
    assert (out, second["prev"]) == ("", first["hash"])


async def test_a_log_is_for_its_owner_to_read(tmp_path: Path) -> None:
    file, database = tmp_path / "audit.jsonl", tmp_path / "audit.db"
    async with open_audit(file, database) as log:
        await log.note(ENTRY)
    assert [path.stat().st_mode & 0o777 for path in (file, database)] == [0o600, 0o600]


async def test_a_log_that_was_rotated_is_begun_anew(tmp_path: Path) -> None:
    file, database = tmp_path / "audit.jsonl", tmp_path / "audit.db"
    async with open_audit(file, database) as log:
        await log.note(ENTRY)
        for path in (file, database):
            path.rename(tmp_path / f"old{path.suffix}")
        await log.note(ENTRY)
    for path in (file, database, tmp_path / "old.jsonl", tmp_path / "old.db"):
        assert (verify(path).records, verify(path).problems) == (1, ())


async def is_refused(file: Path | None, database: Path | None) -> str:
    """That nothing can be recorded there; the hint that says why."""
    async with open_audit(file, database) as log:
        with pytest.raises(AuditUnavailable):
            await log.note(ENTRY)
        with pytest.raises(AuditUnavailable) as unavailable:
            await log.begin(ENTRY)
    failure = unavailable.value.failure()
    assert failure["kind"] == "audit_unavailable"
    assert failure["retryable"] is False
    assert failure["message"] == "Nothing was sent: the audit record could not be written."
    return failure["hint"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are another matter there")
async def test_a_directory_that_is_read_only_refuses_changes(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    with unprivileged():
        for places in ((closed / "audit.jsonl", None), (None, closed / "audit.db")):
            hint = await is_refused(*places)
            assert "Permission denied" in hint
            assert str(closed) not in hint


async def test_a_directory_that_is_gone_refuses_changes(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert "No such file" in await is_refused(gone / "audit.jsonl", None)
    assert "No such file" in await is_refused(None, gone / "audit.db")


async def test_a_file_that_is_no_log_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary", "utf-8")
    assert "not an audit log" in await is_refused(path, None)
    assert "not a database" in await is_refused(None, path)
    assert path.read_text("utf-8") == "Dear diary"
    path.write_bytes(b"{}\n" * 2**19)
    assert "does not end as an audit log" in await is_refused(path, None)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such devices")
async def test_a_device_is_refused() -> None:
    assert "not a regular file" in await is_refused(Path("/dev/null"), None)


async def test_a_process_without_stderr_refuses_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert "there is no stderr" in await is_refused(None, None)


async def test_a_change_refused_by_one_log_is_ended_in_the_other(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    await is_refused(file, tmp_path / "gone" / "audit.db")
    assert verify(file).problems == ()
    *_, before, after = records_in(file)
    assert (before["phase"], after["phase"]) == ("before", "after")
    assert (after["outcome"], after["error_kind"]) == ("error", "audit_unavailable")
    assert "arguments" not in after


async def test_an_end_that_can_not_be_written_is_told_to_the_caller(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    async with open_audit(file, None) as log:
        attempt = await log.begin(ENTRY)
        file.unlink()
        file.mkdir()
        assert not await log.end(attempt, DONE)
        assert not await log.end(attempt, DONE)


async def test_the_operator_is_told_the_reason_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    await is_refused(tmp_path / "gone" / "audit.jsonl", None)
    assert "gone" in caplog.text


async def test_an_end_is_recorded_once(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    async with open_audit(file, None) as log:
        attempt = await log.begin(ENTRY)
        assert await log.end(attempt, DONE)
        assert await log.end(attempt, DONE)
    assert len(records_in(file)) == 2


async def test_a_lock_that_another_holds_is_waited_for_in_vain(tmp_path: Path) -> None:
    path = lines_log(tmp_path, 1)
    with (
        path.open("rb") as one,
        path.open("rb") as other,
        locked(one.fileno()),
        pytest.raises(TimeoutError),
        locked(other.fileno(), patience=0),
    ):
        pass


async def test_all_who_wait_for_a_lock_wait_at_the_same_time(tmp_path: Path) -> None:
    path, waited = lines_log(tmp_path, 1), list[float]()
    async with open_audit(path, None, patience=0.2) as log:

        async def refused() -> None:
            started = time.monotonic()
            with pytest.raises(AuditUnavailable):
                await log.note(ENTRY)
            waited.append(time.monotonic() - started)

        with path.open("rb") as other, locked(other.fileno()):
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(refused)
    assert max(waited) < 0.2 * len(waited) / 2


@pytest.mark.requirement("41")
async def test_a_database_keeps_what_it_has(tmp_path: Path) -> None:
    database = Database(tmp_path / "audit.db")
    database.append(fields())
    connection = database._connection(0)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    for statement in ("DELETE FROM audit", "UPDATE audit SET body = ''"):
        with pytest.raises(Exception, match=re.escape("append-only")):
            connection.execute(statement)
    database.close()


async def test_a_record_that_a_database_refuses_leaves_no_trace(tmp_path: Path) -> None:
    path = database_log(tmp_path, 2)
    with closing(sqlite3.connect(path)) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        async with open_audit(None, path) as log:
            with pytest.raises(AuditUnavailable, match="Nothing was sent"):
                await log.begin(ENTRY)
            other.execute("DROP TRIGGER full")
            await write_change(log)
    assert (verify(path).records, verify(path).problems) == (4, ())


async def test_a_record_waits_for_another_writer_of_the_database(tmp_path: Path) -> None:
    path = database_log(tmp_path, 2)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        async with open_audit(None, path) as log:
            await log.note(ENTRY)
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(log.note, ENTRY)
                await anyio.wait_all_tasks_blocked()
                other.execute("ROLLBACK")
    assert (verify(path).records, verify(path).problems) == (4, ())


class Gate:
    """A sink that holds each record back until it is let through."""

    def __init__(self, closed_for: str) -> None:
        self.closed_for = closed_for
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.records: list[Mapping[str, Json]] = []

    def append(self, fields: Mapping[str, Json], patience: float = 0) -> None:
        assert patience >= 0
        if fields["phase"] == self.closed_for:
            self.reached.set()
            self.opened.wait(10)
        self.records.append(fields)

    def close(self) -> None:
        self.opened.set()

    async def wait(self) -> None:
        await anyio.to_thread.run_sync(self.reached.wait)

    @property
    def phases(self) -> list[Json]:
        return [record["phase"] for record in self.records]


async def is_cancelled(task: asyncio.Task[object], gate: Gate) -> None:
    task.cancel()
    await anyio.wait_all_tasks_blocked()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_change_cancelled_while_it_is_recorded_is_ended_too() -> None:
    gate = Gate(closed_for="before")
    log = AuditLog([gate])
    task = asyncio.create_task(log.begin(ENTRY))
    await gate.wait()
    await is_cancelled(task, gate)
    await log.aclose()
    assert gate.phases == ["before", "after"]
    assert gate.records[1]["error_kind"] == "cancelled"


async def test_a_change_cancelled_before_its_turn_leaves_no_record() -> None:
    gate = Gate(closed_for="before")
    log = AuditLog([gate])
    first = asyncio.create_task(log.begin(ENTRY))
    await gate.wait()
    second = asyncio.create_task(log.begin(ENTRY))
    await anyio.wait_all_tasks_blocked()
    await is_cancelled(second, gate)
    assert await log.end(await first, DONE)
    assert gate.phases == ["before", "after"]


@pytest.mark.parametrize("by_asyncio", [True, False])
async def test_an_end_is_recorded_even_if_cancelled(*, by_asyncio: bool) -> None:
    gate = Gate(closed_for="after")
    log = AuditLog([gate])
    attempt = await log.begin(ENTRY)
    if by_asyncio:
        task = asyncio.create_task(log.end(attempt, DONE))
        await gate.wait()
        await is_cancelled(task, gate)
    else:
        gate.opened.set()
        with anyio.CancelScope() as scope:
            scope.cancel()
            assert await log.end(attempt, DONE)
    assert gate.phases == ["before", "after"]
