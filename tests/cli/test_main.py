"""The command line."""

import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from sysconfig import get_path

import pytest

from calls_mcp import __version__
from calls_mcp.cli.main import main


def run(*arguments: str, stdin: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in this process, with these environment variables."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", StringIO(stdin))
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            status = main([*arguments])
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def test_the_version_is_told() -> None:
    told = run("--version")
    assert (told.returncode, told.stdout) == (0, f"calls-mcp {__version__}\n")


def test_help_names_the_commands() -> None:
    out = run("--help").stdout
    assert all(command in out for command in ("serve", "emulator", "demo"))


def test_usage_names_the_command_and_what_is_required() -> None:
    out = run("--help").stdout
    assert out.startswith("usage: calls-mcp [-h] [--version] COMMAND ...\n")
    assert "commands:\n  COMMAND\n    serve " in out
    assert run("audit").stderr.endswith("the following arguments are required: COMMAND\n")
    assert run("call").stderr.endswith("the following arguments are required: tool\n")


@pytest.mark.requirement("42")
def test_an_unknown_command_is_a_usage_error() -> None:
    told = run("serv")
    assert (told.returncode, told.stdout) == (2, "")
    assert "serv" in told.stderr


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
    demo = run("demo", PATH="")
    assert (demo.returncode, demo.stderr) == (0, "")
    told = " ".join(demo.stdout.split())
    for step in (
        "agent list_calls(limit=3)",
        'did you mean "to"?',
        "asks Place a call to",
        "answer in-progress",
        "answer Declined: The user declined.",
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
    assert demo.stdout.endswith(f"\n  {get_path('scripts')}/calls-mcp serve --sandbox\n")


PIPED = (
    ["demo"],
    ["policy", "check"],
    ["tools"],
    ["doctor", "--sandbox"],
)


@pytest.mark.process
@pytest.mark.parametrize("arguments", PIPED, ids=" ".join)
def test_a_reader_who_leaves_early_is_no_failure(arguments: list[str]) -> None:
    """As in `calls-mcp demo | head -1`."""
    with subprocess.Popen(  # noqa: S603  # our own program
        [sys.executable, "-m", "calls_mcp", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as command:
        assert command.stdout
        assert command.stderr
        if arguments == ["demo"]:
            command.stdout.readline()
        command.stdout.close()
        assert command.stderr.read() == ""
    assert command.returncode == 0


WRONG = (
    (["doctor", "--bogus"], "wrong_usage"),
    (["client-config", "emacs"], "wrong_usage"),
    (["client-config", "zed", "--name", ""], "wrong_setup"),
    (["tools", "no_such_tool"], "wrong_setup"),
    (["call", "no_such_tool"], "wrong_setup"),
    (["call", "fetch_call", "sid"], "wrong_setup"),
    (["call"], "wrong_usage"),
)


@pytest.mark.parametrize(("arguments", "kind"), WRONG)
def test_what_ends_with_status_2_is_told_in_json_where_that_is_asked_for(
    arguments: list[str], kind: str
) -> None:
    plain, told = run(*arguments), run(*arguments, "--json")
    assert (plain.returncode, plain.stdout) == (2, "")
    report = json.loads(told.stdout)
    assert (told.returncode, report["status"], report["error"]["kind"]) == (2, 2, kind)
    assert told.stderr == plain.stderr
    assert report["error"]["message"] in told.stderr
