"""The options that every command has: `--env-file`, `--quiet` and `--verbose`."""

import os
from pathlib import Path

import pytest

from calls_mcp.settings import load_settings
from tests.cli.test_main import run

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command change the environment of this test only."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def written(folder: Path, text: str) -> str:
    """Return the path of a file with this text."""
    file = folder / "calls.env"
    file.write_text(text, "utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("CALLS_MCP_CONSOLE_URL=https://a.example", "https://a.example"),
        ("export CALLS_MCP_CONSOLE_URL = https://a.example  # the proxy", "https://a.example"),
        ("CALLS_MCP_CONSOLE_URL='https://a.example' # the proxy", "https://a.example"),
        ('CALLS_MCP_CONSOLE_URL="https://a.example"', "https://a.example"),
        ("CALLS_MCP_CONSOLE_URL=", None),
        ("# CALLS_MCP_CONSOLE_URL=https://a.example", None),
    ],
)
def test_settings_are_read_from_a_file(tmp_path: Path, line: str, value: str | None) -> None:
    file = written(tmp_path, f"\n# settings\n{line}\n")
    assert run("policy", "check", "--env-file", file).returncode == 0
    assert load_settings().console.url == value


def test_the_environment_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS_MCP_CONFIRM", "destructive")
    file = written(tmp_path, "CALLS_MCP_CONFIRM=none\n")
    assert run("--env-file", file, "policy", "check").returncode == 0
    assert load_settings().guard.confirm == "destructive"


@pytest.mark.parametrize(
    "line",
    [
        SECRET,
        f"TWILIO-AUTH={SECRET}",
        f"TWILIO_AUTH_TOKEN: {SECRET}",
        f"TWILIO_AUTH_TOKEN='{SECRET}",
        f'TWILIO_AUTH_TOKEN="{SECRET}\\n"',
        f"TWILIO_AUTH_TOKEN='{SECRET}'x",
    ],
)
def test_a_wrong_line_is_reported_by_its_number_only(tmp_path: Path, line: str) -> None:
    file = written(tmp_path, f"# settings\n{line}\n")
    told = run("policy", "check", "--env-file", file)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith(f"calls-mcp: --env-file {file}: line 2: must be KEY=VALUE.")
    assert SECRET not in told.stderr


def test_a_variable_that_is_set_twice_is_reported(tmp_path: Path) -> None:
    file = written(tmp_path, f"TWILIO_AUTH_TOKEN={SECRET}\nTWILIO_AUTH_TOKEN=x\n")
    told = run("policy", "check", "--env-file", file)
    assert told.stderr.endswith("line 2: sets TWILIO_AUTH_TOKEN again.\n")


def test_all_wrong_lines_are_reported_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, f"TWILIO_AUTH_TOKEN={SECRET}\n{SECRET}\n\nx y\nTWILIO_AUTH_TOKEN=x\n")
    told = run("policy", "check", "--env-file", file).stderr
    assert [line.partition(": line ")[2][:2] for line in told.splitlines()] == ["2:", "4:", "5:"]
    assert SECRET not in told


def test_a_missing_file_is_reported() -> None:
    told = run("policy", "check", "--env-file", "no/such/file")
    assert told.returncode == 2
    assert told.stderr == "calls-mcp: --env-file no/such/file: No such file or directory.\n"


@pytest.mark.parametrize(
    ("options", "level"),
    [("-q", "ERROR"), ("--quiet", "ERROR"), ("-v", "INFO"), ("-vv", "DEBUG"), ("", "WARNING")],
)
def test_the_log_level_can_be_given_as_an_option(options: str, level: str) -> None:
    assert run("policy", *options.split(), "check").returncode == 0
    assert load_settings().logs.level == level
