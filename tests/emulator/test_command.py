"""`calls-mcp emulator` as a person starts it."""

import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from calls_mcp.cli.main import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command ends with."""
    assert main(["emulator", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("calls-mcp: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "99999"),
        ("--port", "-1"),
        ("--speed", "0"),
        ("--speed", "-1"),
        ("--speed", "nan"),
        ("--speed", "inf"),
        ("--calls", "-5"),
        ("--cps", "0"),
        ("--cps", "-2"),
    ],
)
def test_an_option_that_makes_no_sense_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    told = refusal(capsys, f"{option}={value}")
    assert option in told
    assert value in told


def test_a_database_that_is_none_is_named_and_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("Milk, eggs and nothing that SQLite could read." * 50, "utf-8")
    before = file.read_bytes()
    assert str(file) in refusal(capsys, "--port=0", f"--db={file}")
    assert file.read_bytes() == before


def test_a_database_of_another_program_is_named_and_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE calls (name)")
    assert "other tables" in refusal(capsys, "--port=0", f"--db={file}")
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("calls",)]


def test_a_database_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for path in (tmp_path, tmp_path / "none" / "calls.sqlite"):
        assert str(path) in refusal(capsys, "--port=0", f"--db={path}")


def test_a_scenario_that_is_wrong_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "none.toml" in refusal(capsys, "--port=0", f"--scenario={tmp_path / 'none.toml'}")


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_that_is_not_ours_is_named(
    capsys: pytest.CaptureFixture[str], host: str
) -> None:
    assert host in refusal(capsys, "--port=0", f"--host={host}")


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refusal(capsys, f"--port={port}")
