import asyncio
import json
import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from calls_mcp.audit.log import AuditLog, audit_path, open_audit
from calls_mcp.audit.records import ORDER, Ending
from calls_mcp.audit.verification import verify
from calls_mcp.errors import AuditUnavailable
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from calls_mcp.storage.database import default_path
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import Failure
from tests.audit.logs import ACCOUNT, ENTRY, SID, database_log
from tests.audit_records import records_in
from tests.harness import access_to
from tests.storage import processes

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("_quiet")]

DONE = Ending("done", http_status=201, sid=SID)


@pytest.fixture
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


async def write_change(log: AuditLog) -> None:
    assert await log.end(await log.begin(ENTRY), DONE)


@pytest.mark.parametrize(
    ("audit", "state", "expected"),
    [
        (None, "sqlite:////state.db", Path("/state.db")),
        (None, "redis://127.0.0.1/0", "the user's own"),
        (None, "memory:", None),
        ("/audit.db", "memory:", Path("/audit.db")),
        ("/audit.db", "sqlite:////state.db", Path("/audit.db")),
        ("stderr:", "sqlite:////state.db", None),
    ],
)
def test_the_log_is_in_the_state_database_by_default(
    audit: str | None, state: str, expected: Path | str | None
) -> None:
    settings = load_settings({"CALLS_MCP_AUDIT_DATABASE": audit, "CALLS_MCP_STATE_URL": state})
    wanted = default_path() if expected == "the user's own" else expected
    assert audit_path(settings) == wanted


@pytest.mark.requirement("41")
async def test_a_change_is_recorded_before_and_after(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    async with open_audit(path, clock=lambda: 1_700_000_000.1234) as log:
        attempt = await log.begin(ENTRY)
        (before,) = records_in(path)
        assert await log.end(attempt, DONE)
    _, after = records_in(path)
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


async def test_a_refusal_has_one_record(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit.db"
    for number in range(3):
        async with open_audit(path) as log:
            assert len(records_in(path)) == number
            await log.record(ENTRY)
    assert [(each["seq"], each["phase"]) for each in records_in(path)] == [
        (number, "decided") for number in (1, 2, 3)
    ]
    assert verify(path).problems == ()
    assert path.stat().st_mode & 0o777 == 0o600


FIRST_EDITION = """
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY, time TEXT NOT NULL, tool TEXT, sid TEXT, prev TEXT NOT NULL,
  hash TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX audit_time ON audit (time);
CREATE INDEX audit_tool ON audit (tool);
CREATE INDEX audit_sid ON audit (sid);
CREATE TRIGGER audit_keeps BEFORE DELETE ON audit
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""


async def test_a_log_in_a_separate_database_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    rows = database_log(tmp_path, 3)
    with closing(sqlite3.connect(path)) as old, old:
        old.executescript(FIRST_EDITION)
        old.execute("ATTACH ? AS new", [str(rows)])
        old.execute("INSERT INTO audit SELECT * FROM new.audit")
    async with open_audit(path) as log:
        await write_change(log)
    assert (verify(path).records, verify(path).problems) == (5, ())


@pytest.mark.requirement("42")
async def test_records_on_stderr_form_one_chain(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with open_audit(None) as log:
        await write_change(log)
    out, err = capsys.readouterr()
    assert (out, [json.loads(line)["seq"] for line in err.splitlines()]) == ("", [1, 2])
    collected = tmp_path / "collected.jsonl"
    collected.write_text(err, "utf-8")
    assert verify(collected).problems == ()


async def is_refused(path: Path | None) -> str:
    """Check that nothing can be recorded; return the hint."""
    async with open_audit(path, busy_timeout=1) as log:
        with pytest.raises(AuditUnavailable):
            await log.record(ENTRY)
        with pytest.raises(AuditUnavailable) as unavailable:
            await log.begin(ENTRY)
    failure = Failure.from_error(unavailable.value)
    assert failure.kind == "audit_unavailable"
    assert failure.retryable is False
    assert failure.message == "Nothing was sent because the audit log can't be written."
    return failure.hint


async def test_changes_fail_if_the_log_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    hint = await is_refused(tmp_path / "gone" / "audit.db")
    assert "No such file" in hint
    assert "gone" not in hint
    assert "CALLS_MCP_AUDIT_DATABASE" in hint
    assert "CALLS_MCP_AUDIT_DATABASE" in caplog.text
    assert "gone" in caplog.text  # the operator's log has the path
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary", "utf-8")
    assert "not a database" in await is_refused(path)
    assert path.read_text("utf-8") == "Dear diary"
    monkeypatch.setattr(sys, "stderr", None)
    assert "this process has no stderr" in await is_refused(None)


async def test_a_server_is_not_ready_while_no_change_can_be_recorded(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "audit.db"
    settings = {"CALLS_MCP_AUDIT_DATABASE": str(file), "CALLS_MCP_STATE_URL": "memory:"}
    async with Runtime(load_settings(settings), access_to("http://127.0.0.1:1")) as runtime:
        assert not await runtime.is_ready()
        file.parent.mkdir()
        assert await runtime.is_ready()
        assert not file.exists()
        database_log(file.parent, 1)
        assert await runtime.is_ready()
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with anyio.fail_after(4):
                assert not await runtime.is_ready()


async def test_a_failed_record_is_rolled_back(tmp_path: Path) -> None:
    path = database_log(tmp_path, 2)
    with closing(sqlite3.connect(path)) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        async with open_audit(path) as log:
            with pytest.raises(AuditUnavailable, match="Nothing was sent"):
                await log.begin(ENTRY)
            other.execute("DROP TRIGGER full")
            await write_change(log)
    assert (verify(path).records, verify(path).problems) == (4, ())


def write_changes(path: Path, number: int) -> None:
    async def work() -> None:
        timeout = processes.TIMEOUT
        async with (
            open_audit(path, busy_timeout=timeout) as log,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(number):
                tasks.start_soon(write_change, log)

    anyio.run(work)


@pytest.mark.process
def test_concurrent_processes_write_an_intact_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    processes.run_in_each(write_changes, path, 10)
    report = verify(path)
    assert (report.records, report.problems, report.notes) == (processes.COUNT * 2 * 10, (), ())


async def test_records_wait_for_another_process_at_the_same_time(tmp_path: Path) -> None:
    path, waited = database_log(tmp_path, 1), list[float]()
    async with open_audit(path, busy_timeout=0.2) as log:

        async def refused() -> None:
            started = time.monotonic()
            with pytest.raises(AuditUnavailable):
                await log.record(ENTRY)
            waited.append(time.monotonic() - started)

        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(refused)
    assert max(waited) < 0.2 * len(waited) / 2


async def test_records_that_were_cut_off_while_the_log_is_open_are_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit.db"
    caplog.set_level(logging.ERROR)
    async with open_audit(path) as log:
        await write_change(log)
        await write_change(log)
        assert caplog.messages == []
        with closing(sqlite3.connect(path)) as intruder, intruder:
            intruder.execute("DROP TRIGGER audit_keeps")
            intruder.execute("DELETE FROM audit WHERE seq > 2")
        await write_change(log)
        (told,) = caplog.messages
    assert told.startswith(f"Records are missing from the audit log {path}")
    assert verify(path).is_intact  # the chain alone does not show it


@pytest.mark.requirement("41")
async def test_records_cannot_be_edited_or_deleted(tmp_path: Path) -> None:
    with closing(sqlite3.connect(database_log(tmp_path, 1))) as database:
        for statement in ("DELETE FROM audit", "UPDATE audit SET body = ''"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(statement)


class BlockingDestination:
    """A destination that delays each record until it is released, or fails."""

    where = "blocking:"

    def __init__(self, blocked_phase: str = "", failing_phase: str = "") -> None:
        self.blocked_phase = blocked_phase
        self.failing_phase = failing_phase
        self.reached = threading.Event()
        self.released = threading.Event()
        self.records: list[Mapping[str, Json]] = []

    def append(self, fields: Mapping[str, Json], until: float) -> None:
        del until
        if fields["phase"] == self.failing_phase:
            raise OSError("full")
        if fields["phase"] == self.blocked_phase:
            self.reached.set()
            self.released.wait(10)
        self.records.append(fields)

    def require_ready(self, until: float) -> None:
        del until

    def close(self) -> None:
        self.released.set()

    async def wait(self) -> None:
        await anyio.to_thread.run_sync(self.reached.wait)

    @property
    def phases(self) -> list[Json]:
        return [record["phase"] for record in self.records]


@pytest.mark.parametrize("failing_phase", ["", "after"])
async def test_a_result_is_recorded_or_reported_as_unrecorded(failing_phase: str) -> None:
    destination = BlockingDestination(failing_phase=failing_phase)
    log = AuditLog(destination)
    assert await log.end(await log.begin(ENTRY), DONE) is not bool(failing_phase)
    assert destination.phases == ["before", *([] if failing_phase else ["after"])]


async def test_a_change_is_recorded_before_and_after_even_if_cancelled() -> None:
    destination = BlockingDestination()
    log = AuditLog(destination)
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await log.end(await log.begin(ENTRY), DONE)
    assert destination.phases == ["before", "after"]


async def test_a_result_is_recorded_even_if_asyncio_cancels_the_task() -> None:
    destination = BlockingDestination(blocked_phase="after")
    log = AuditLog(destination)
    task = asyncio.create_task(log.end(await log.begin(ENTRY), DONE))
    await destination.wait()
    task.cancel()
    await anyio.wait_all_tasks_blocked()
    destination.released.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await log.aclose()
    assert destination.phases == ["before", "after"]
