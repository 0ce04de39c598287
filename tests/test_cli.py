"""The command line."""

import subprocess
import sys

import pytest

from calls_mcp import __version__
from calls_mcp.cli import main


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603  # our own program
        [sys.executable, "-m", "calls_mcp", *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"calls-mcp {__version__}\n"


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(command in out for command in ("serve", "emulator", "demo"))


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serv"])
    assert end.value.code == 2
    assert "serv" in capsys.readouterr().err


def test_wrong_settings_end_it_with_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLS_MCP_CONFIRM", "sometimes")
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("calls-mcp: Wrong settings: CALLS_MCP_CONFIRM: ")
    assert captured.err.count("\n") == 1


def test_the_demo_shows_each_step_and_places_one_call_only() -> None:
    demo = run("demo")
    assert (demo.returncode, demo.stderr) == (0, "")
    told = " ".join(demo.stdout.split())
    for step in (
        "agent list_calls(limit=3)",
        'did you mean "to"?',
        "asks Place a call to",
        "answer in-progress",
        "answer Declined: The user said no.",
        " completed ",
        "answer Deleted the record of",
        "error not_found:",
    ):
        assert step in told
    reached = told.partition("What reached the API")[2]
    assert reached.count("201 POST") == 1
    assert reached.count("Status=completed") == 1
    assert reached.count("204 DELETE") == 1
    assert "\x1b" not in told
