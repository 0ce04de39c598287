"""`calls-mcp audit`: export, follow and verify."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from calls_mcp.audit.verification import verify
from calls_mcp.cli.main import main
from tests.audit.logs import append, database_log, fields, spoil
from tests.audit_records import lines_in

EXPORT = (sys.executable, "-m", "calls_mcp", "audit", "export")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of three records, which is the one in use."""
    path = database_log(tmp_path, 3)
    monkeypatch.setenv("CALLS_MCP_AUDIT_DATABASE", str(path))
    return path


def exported(*options: str) -> list[str]:
    done = subprocess.run(  # noqa: S603
        [*EXPORT, *options], capture_output=True, check=True, encoding="utf-8"
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.process
def test_the_records_are_exported_as_they_are_and_can_be_verified(
    log: Path, tmp_path: Path
) -> None:
    lines = exported()
    assert lines == lines_in(log)
    copy = tmp_path / "copy.jsonl"
    copy.write_text("\n".join([*lines, ""]), "utf-8")
    assert verify(copy) == verify(log)


@pytest.mark.process
@pytest.mark.parametrize(
    ("since", "count"),
    [
        ("2026-01-31", 3),
        ("2026-01-31T09:00:01Z", 2),
        ("2026-01-31T10:00:02+01:00", 1),
        ("2026-02-01", 0),
    ],
)
@pytest.mark.usefixtures("log")
def test_an_export_begins_where_it_is_to(since: str, count: int) -> None:
    assert len(exported("--since", since)) == count


@pytest.mark.process
@pytest.mark.usefixtures("log")
def test_an_export_that_begins_later_is_verified_as_a_part_of_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part.jsonl"
    lines = exported("--since", "2026-01-31T09:00:01Z")
    part.write_text("\n".join([*lines, ""]), "utf-8")
    assert main(["audit", "verify", str(part)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1] == "All records are intact and in order."
    assert told[-1] == "Note: begins at record 2; earlier records are not in this file"


@pytest.mark.usefixtures("log")
def test_a_time_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["audit", "export", "--since", "yesterday"])
    assert "must be ISO 8601" in capsys.readouterr().err


@contextmanager
def following() -> Generator[subprocess.Popen[str]]:
    command = [*EXPORT, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:  # noqa: S603
        try:
            yield process
        finally:
            process.kill()


def read(process: "subprocess.Popen[str]") -> int:
    assert process.stdout
    return json.loads(process.stdout.readline())["seq"]


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_new_records_are_followed_until_a_signal_comes(log: Path, number: signal.Signals) -> None:
    with following() as process:
        assert [read(process) for _ in range(3)] == [1, 2, 3]
        append(log, fields(3))
        assert read(process) == 4
        process.send_signal(number)
        assert (process.wait(30), process.communicate()[0]) == (0, "")


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
@pytest.mark.usefixtures("log")
def test_following_ends_once_nobody_reads_it() -> None:
    with following() as process:
        assert read(process) == 1
        assert process.stdout
        process.stdout.close()
        assert process.wait(30) == 0


@pytest.mark.process
def test_a_log_can_be_followed_before_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "later.db"
    monkeypatch.setenv("CALLS_MCP_AUDIT_DATABASE", str(path))
    assert main(["audit", "export"]) == 2
    told = capsys.readouterr().err
    assert f"There is no audit log yet at {path}" in told
    assert "--sandbox" in told
    assert main(["audit", "verify"]) == 2
    assert capsys.readouterr().err == told
    with following() as process:
        append(path, fields())
        assert read(process) == 1


def test_the_log_in_use_is_verified(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify"]) == 0
    assert "All records are intact" in capsys.readouterr().out
    assert main(["audit", "verify", "--expect", "0" * 64]) == 1
    assert "no record has the expected hash" in capsys.readouterr().out
    spoil(log, "UPDATE audit SET body = replace(body, '0001', '0009') WHERE seq = 2")
    assert main(["audit", "verify"]) == 1
    assert "record 2: it was edited" in capsys.readouterr().out
    assert main(["audit", "verify", str(log.with_name("none"))]) == 2


def test_a_database_without_a_log_has_no_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE t (x)")
    assert main(["audit", "verify", str(path)]) == 0
    assert capsys.readouterr().out == "There are no records.\n"


@pytest.mark.parametrize("command", ["export", "verify"])
def test_a_log_that_goes_to_stderr_is_not_here(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLS_MCP_AUDIT_DATABASE", "stderr:")
    assert main(["audit", command]) == 2
    assert "CALLS_MCP_AUDIT_DATABASE" in capsys.readouterr().err


def test_the_setting_that_was_removed_names_the_command_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLS_MCP_AUDIT_FILE", "audit.jsonl")
    assert main([]) == 2
    assert "calls-mcp audit export" in capsys.readouterr().err
