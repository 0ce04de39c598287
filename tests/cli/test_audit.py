"""`calls-mcp audit`: search, export, follow and verify."""

import json
import os
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
    """A log of three records that the settings name."""
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
def test_exported_records_are_unchanged_and_can_be_verified(log: Path, tmp_path: Path) -> None:
    lines = exported()
    assert lines == lines_in(log)
    copy = tmp_path / "copy.jsonl"
    copy.write_text("\n".join([*lines, ""]), "utf-8")
    assert verify(copy) == verify(log)


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
def test_an_edited_record_cannot_control_the_terminal(log: Path) -> None:
    spoil(log, "UPDATE audit SET body = ?", ["\x1b[2J\u202e\u009b2J"])
    ours, theirs = os.openpty()
    try:
        subprocess.run(EXPORT, stdout=theirs, check=True)  # noqa: S603
        shown = os.read(ours, 4096).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert shown.splitlines()[0] == "⟨U+001B⟩[2J⟨U+202E⟩⟨U+009B⟩2J"
    assert "\x1b" not in shown


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
def test_an_export_starts_at_the_given_time(since: str, count: int) -> None:
    assert len(exported("--since", since)) == count


@pytest.mark.process
@pytest.mark.usefixtures("log")
def test_an_export_that_starts_later_is_verified_as_part_of_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part.jsonl"
    lines = exported("--since", "2026-01-31T09:00:01Z")
    part.write_text("\n".join([*lines, ""]), "utf-8")
    assert main(["audit", "verify", str(part)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1] == "All records are intact and in order."
    assert told[-1] == "Note: this file begins at record 2"


@pytest.mark.parametrize("time", ["yesterday", "0001-01-01T00:00+14:00"])
@pytest.mark.usefixtures("log")
def test_an_invalid_time_is_reported(time: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["audit", "export", "--since", time])
    assert "must be ISO 8601" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["", "latest", "0" * 63])
@pytest.mark.usefixtures("log")
def test_an_expected_hash_that_is_not_a_hash_is_refused(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["audit", "verify", "--expect", value])
    assert "argument --expect: must be the 64 hex digits of a hash" in capsys.readouterr().err


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
def test_follow_writes_new_records_until_a_signal(log: Path, number: signal.Signals) -> None:
    with following() as process:
        assert [read(process) for _ in range(3)] == [1, 2, 3]
        append(log, fields(3))
        assert read(process) == 4
        process.send_signal(number)
        assert (process.wait(30), process.communicate()[0]) == (0, "")


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
@pytest.mark.usefixtures("log")
def test_follow_ends_when_its_reader_closes_the_pipe() -> None:
    with following() as process:
        assert read(process) == 1
        assert process.stdout
        process.stdout.close()
        assert process.wait(30) == 0


@pytest.mark.process
def test_follow_waits_for_a_log_that_does_not_exist_yet(
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


def test_verify_checks_the_log_of_the_settings(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "verify"]) == 0
    assert "All records are intact" in capsys.readouterr().out
    assert main(["audit", "verify", "--expect", "0" * 64]) == 1
    assert "no record has the expected hash" in capsys.readouterr().out
    spoil(log, "UPDATE audit SET body = replace(body, '0001', '0009') WHERE seq = 2")
    assert main(["audit", "verify"]) == 1
    assert (
        "record 2: its hash does not match its content, so it was edited" in capsys.readouterr().out
    )
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
def test_a_log_on_stderr_cannot_be_exported_or_verified(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLS_MCP_AUDIT_DATABASE", "stderr:")
    assert main(["audit", command]) == 2
    assert "CALLS_MCP_AUDIT_DATABASE" in capsys.readouterr().err


def test_the_removed_setting_names_the_command_to_use_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLS_MCP_AUDIT_FILE", "audit.jsonl")
    assert main([]) == 2
    assert "calls-mcp audit export" in capsys.readouterr().err


@pytest.mark.usefixtures("log")
def test_search_lists_the_newest_matching_records_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["audit", "search", "--json"]) == 0
    assert [record["seq"] for record in json.loads(capsys.readouterr().out)] == [3, 2, 1]
    assert main(["audit", "search", "--json", "--limit", "1"]) == 0
    assert [record["seq"] for record in json.loads(capsys.readouterr().out)] == [3]
    assert main(["audit", "search", "--since", "2026-01-31T09:00:02Z"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["TIME", "RECORD", "TOOL", "PRINCIPAL", "RESULT"]
    assert row.startswith("2026-01-31T09:00:02")
    assert main(["audit", "search", "no such text"]) == 0
    assert capsys.readouterr().out == "No matching records.\n"
    for limit in ("0", "1" + 30 * "0"):
        assert main(["audit", "search", "--limit", limit]) == 2
        assert f"--limit must be 1 to 1000000; got {limit}." in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--decision", "--tool"])
@pytest.mark.usefixtures("log")
def test_a_search_for_a_word_that_no_record_can_have_is_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["audit", "search", option, "rejected"])
    assert f"argument {option}: invalid choice: 'rejected' (choose from " in capsys.readouterr().err


def test_search_marks_an_edited_record(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(log, "UPDATE audit SET body = replace(body, '0001', '0009') WHERE seq = 2")
    assert main(["audit", "search"]) == 0
    _, third, second, first = capsys.readouterr().out.splitlines()
    assert second.endswith("this record was edited")
    assert not any("edited" in line for line in (third, first))


def test_a_report_can_be_printed_as_json(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["is_intact"], report["records"], report["problems"]) == (True, 3, [])
    spoil(log, "UPDATE audit SET body = replace(body, '0001', '0009') WHERE seq = 2")
    assert main(["audit", "verify", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["is_intact"], report["problems"][0]["kind"]) == (False, "tampering")


def test_a_file_that_cannot_be_read_is_reported_without_an_error_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "none"
    assert main(["audit", "verify", str(file)]) == 2
    told = capsys.readouterr().err
    assert told == f"calls-mcp: The audit log {file} can't be read: No such file or directory\n"
