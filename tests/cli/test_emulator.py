"""`calls-mcp emulator` as a person starts it."""

import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from calls_mcp.cli.main import main
from calls_mcp.emulator import DEFAULT_ACCOUNT, CallStore


class Interrupting(io.StringIO):
    """A stderr that keeps what is written and raises a signal after the first line."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number

    def flush(self) -> None:
        signal.raise_signal(self.number)


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
        ("--speed", "-1"),
        ("--speed", "nan"),
        ("--speed", "inf"),
        ("--calls", "-5"),
        ("--cps", "0"),
        ("--cps", "-2"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    message = refusal(capsys, f"{option}={value}")
    assert option in message
    assert value in message


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--account", "AC123"),
        ("--account", f"SK{1:032}"),
        ("--auth-token", ""),
        ("--api-key", f"SK{1:032}"),
        ("--api-key", f"SK{1:032}:"),
        ("--api-key", "made-up-secret"),
    ],
)
def test_wrong_credentials_are_reported_and_not_shown(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    message = refusal(capsys, f"{option}={value}")
    assert option in message
    assert not value or value not in message


def test_all_wrong_options_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--host", "--port", "--calls", "--speed", "--cps", "--account", "--api-key")
    values = ("", "-1", "-1", "-1", "0", "AC1", "SK1")
    given = [f"{option}={value}" for option, value in zip(options, values, strict=True)]
    message = refusal(capsys, *given, "--auth-token=")
    assert [option for option in (*options, "--auth-token") if option not in message] == []


def test_a_file_that_is_not_a_database_is_named_and_not_changed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("Milk, eggs and nothing that SQLite could read." * 50, "utf-8")
    before = file.read_bytes()
    assert str(file) in refusal(capsys, "--port=0", f"--db={file}")
    assert file.read_bytes() == before


def test_a_database_of_another_program_is_named_and_not_changed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE calls (name)")
    assert "not an emulator database" in refusal(capsys, "--port=0", f"--db={file}")
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("calls",)]


def test_a_database_that_another_emulator_uses_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calls_mcp.emulator.sqlite_database.PATIENCE", 0)
    file = tmp_path / "calls.sqlite"
    with closing(CallStore(str(file), time.time)):
        message = refusal(capsys, "--port=0", f"--db={file}")
    assert f"{file} can't be used: another emulator uses it" in message


def test_a_database_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for path in (tmp_path, tmp_path / "none" / "calls.sqlite"):
        assert str(path) in refusal(capsys, "--port=0", f"--db={path}")


def test_a_missing_scenario_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refusal(capsys, "--port=0", f"--scenario={tmp_path / 'none.toml'}")
    assert message.endswith("none.toml: can't be read: No such file or directory\n")


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_named(
    capsys: pytest.CaptureFixture[str], host: str
) -> None:
    message = refusal(capsys, "--port=0", f"--host={host}")
    assert message.startswith(f"calls-mcp: Cannot listen on {host}:0: ")
    assert "Unknown error" not in message


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        message = refusal(capsys, f"--port={port}")
    assert message == f"calls-mcp: Cannot listen on 127.0.0.1:{port}: Address already in use.\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_its_url_and_credentials_and_ends_on_a_signal(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    stderr = Interrupting(number)
    before = signal.getsignal(number)
    monkeypatch.setattr(sys, "stderr", stderr)
    assert main(["emulator", "--port=0"]) == 0
    line = stderr.getvalue()
    assert line.startswith("http://127.0.0.1:")
    assert line.count("\n") == 1
    assert DEFAULT_ACCOUNT.sid in line
    assert DEFAULT_ACCOUNT.auth_token in line
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_given_credentials_are_used_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    sid, key, printed = f"AC{7:032}", f"SK{8:032}", io.StringIO()
    accepted: list[int] = []

    class Asking(Interrupting):
        def flush(self) -> None:
            found = re.search(r"http://127\.0\.0\.1:[0-9]+", self.getvalue())
            assert found
            url = f"{found[0]}/2010-04-01/Accounts/{sid}.json"
            threading.Thread(target=self.ask, args=(url,)).start()

        def ask(self, url: str) -> None:
            tried = [(sid, "my-token"), (key, "my-secret"), (sid, "emulator")]
            accepted.extend(httpx.get(url, auth=each).status_code for each in tried)
            os.kill(os.getpid(), signal.SIGTERM)

    stream = Asking(signal.SIGTERM)
    monkeypatch.setattr(sys, "stdout" if options else "stderr", stream)
    monkeypatch.setattr(sys, "stderr" if options else "stdout", printed)
    given = [f"--account={sid}", "--auth-token=my-token", f"--api-key={key}:my-secret"]
    assert main(["emulator", "--port=0", *given, *options]) == 0
    assert accepted == [200, 200, 401]
    assert sid in stream.getvalue()
    assert "my-" not in stream.getvalue() + printed.getvalue()


def test_json_has_the_url_and_the_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdout = Interrupting(signal.SIGTERM)
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["emulator", "--port=0", "--json"]) == 0
    told = json.loads(stdout.getvalue())
    assert told["base_url"].startswith("http://127.0.0.1:")
    assert told["account_sid"] == DEFAULT_ACCOUNT.sid
    assert told["auth_token"] == DEFAULT_ACCOUNT.auth_token


@pytest.mark.parametrize(
    ("seed", "calls", "count"), [(None, None, 0), (1, None, 250), (None, 7, 7), (1, 0, 0)]
)
def test_past_calls_are_added_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int | None, calls: int | None, count: int
) -> None:
    database = str(tmp_path / "calls.sqlite")
    options = ["--port=0", f"--db={database}"]
    options += [] if seed is None else [f"--seed={seed}"]
    options += [] if calls is None else [f"--calls={calls}"]
    for holds_calls in (False, count > 0):
        stderr = Interrupting(signal.SIGTERM)
        monkeypatch.setattr(sys, "stderr", stderr)
        assert main(["emulator", *options]) == 0
        with closing(CallStore(database, time.time)) as store:
            assert store.count() == count
        refusal = f"{database} already has calls"
        assert stderr.getvalue().startswith(refusal) == holds_calls


@pytest.mark.process
def test_a_signal_ends_it_while_past_calls_are_added(tmp_path: Path) -> None:
    database = tmp_path / "calls.sqlite"
    arguments = ["emulator", "--port", "0", "--db", str(database), "--calls", "2000000"]
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "calls_mcp", *arguments], stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        while not database.exists():
            assert process.poll() is None
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
