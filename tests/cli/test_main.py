"""The command line."""

import json
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from sysconfig import get_path
from typing import cast

import pytest

from calls_mcp import __version__
from calls_mcp.cli.main import COMMANDS, complete_parser, main
from tests.cli.terminal import on_terminal


class Screen(StringIO):
    """A terminal, as far as a command in this process can tell."""

    def isatty(self) -> bool:
        return True


def run(*arguments: str, stdin: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in this process, with these environment variables."""
    return _run(arguments, StringIO(stdin), StringIO(), variables)


def run_on_terminal(*arguments: str, typed: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in this process, with stdin and stderr on a terminal."""
    return _run(arguments, Screen(typed), Screen(), {})


def _run(
    arguments: Sequence[str], stdin: StringIO, err: StringIO, variables: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            status = main([*arguments])
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_printed(option: str) -> None:
    told = run(option)
    assert (told.returncode, told.stdout) == (0, f"calls-mcp {__version__}\n")


def test_help_names_the_commands_and_the_exit_statuses() -> None:
    out = run("--help").stdout
    assert all(f"    {command} " in out for command in COMMANDS)
    assert "exit status:\n  0    success" in out


def parsers(parser: ArgumentParser) -> Iterator[ArgumentParser]:
    """Yield a parser and its subparsers."""
    yield parser
    for action in parser._actions:  # noqa: SLF001  # argparse has no public way
        if isinstance(action.choices, dict):
            for choice in cast("dict[str, object]", action.choices).values():
                if isinstance(choice, ArgumentParser):
                    yield from parsers(choice)


@pytest.mark.parametrize("parser", [*parsers(complete_parser())], ids=lambda parser: parser.prog)
def test_every_command_has_a_description_and_an_example(parser: ArgumentParser) -> None:
    told = parser.format_help()
    assert parser.description
    assert "\nexample" in told
    assert f"  {parser.prog}" in told.partition("\nexample")[2]
    assert "[ ...]" not in told


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_names_commands_tools_and_options(shell: str) -> None:
    script = run("completion", shell).stdout
    assert all(word in script for word in (*COMMANDS, "create_call", "env-file", "claude-desktop"))


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("calls-mcp aud", {"audit"}),
        ("calls-mcp call fetch", {"fetch_call"}),
        ("calls-mcp audit verify --exp", {"--expect"}),
    ],
)
def test_bash_completes_with_the_script(words: str, completions: set[str]) -> None:
    *before, last = words.split()
    script = (
        f"{run('completion', 'bash').stdout}\n"
        f"COMP_WORDS=({' '.join(before)} {last}); COMP_CWORD={len(before)}; _shtab_calls_mcp; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["/bin/bash", "--norc"], input=script, capture_output=True, check=True, encoding="utf-8"
    )
    assert {*done.stdout.split()} == completions


def test_usage_names_the_command_and_required_arguments() -> None:
    out = run("--help").stdout
    assert out.startswith("usage: calls-mcp [-h] [--env-file FILE] [-q] [-v] [-V] COMMAND ...\n")
    assert "commands:\n  COMMAND\n    serve " in out
    assert run("audit").stderr.endswith("the following arguments are required: COMMAND\n")
    assert run("call").stderr.endswith("the following arguments are required: TOOL\n")


@pytest.mark.requirement("42")
def test_an_unknown_command_is_a_usage_error() -> None:
    told = run("serv")
    assert (told.returncode, told.stdout) == (2, "")
    assert "serv" in told.stderr


def test_wrong_settings_are_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLS_MCP_CONFIRM", "sometimes")
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("calls-mcp: Invalid settings: CALLS_MCP_CONFIRM: ")
    assert captured.err.count("\n") == 1


def test_too_many_arguments_are_counted() -> None:
    assert run("tools", "--json", "create_call").returncode == 0
    one, two = run("doctor", "a").stderr, run("doctor", "a", "b").stderr
    assert one.endswith("error: 1 unexpected argument\n")
    assert two.endswith("error: 2 unexpected arguments\n")
    late = run("approvals", "--sandbox", "show", "--json", "a").stderr
    assert late.endswith("error: 1 unexpected argument; arguments go before options\n")


def test_the_demo_shows_each_step_and_places_one_call_only(tmp_path: Path) -> None:
    demo = run("demo", PATH="", HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path / "none"))
    assert (demo.returncode, demo.stderr) == (0, "")
    told = " ".join(demo.stdout.split())
    for step in (
        "agent create_call(to=",
        "server Call +1 202 555 0123.",
        "you yes",
        'wait_until="answered")',
        " in-progress ",
        'did you mean "to"?',
        "result in-progress … 0:07 other party said “Yes, I can.”",
        "you no",
        "result The user said no.",
        " completed ",
        "agent list_calls(limit=5)",
        " s · 0.013 USD",
        "result Deleted the record of",
        "Transcript 0:03 answered by a human",
        "said “Your table is ready. Can you be here at eight?”",
        "other party said “Yes, I can.”",
        "said “Thank you. See you at eight. Goodbye.”",
    ):
        assert step in told
    assert "started 0 s ago" not in told
    assert "not known yet" not in told
    reached = told.partition("What reached the API")[2]
    assert reached.count("201 POST") == 1
    assert reached.count("Twiml=<Response><Say>Thank you.") == 1
    assert "Status=completed" not in reached
    assert reached.count("204 DELETE") == 1
    assert "\x1b" not in told
    assert f"\n  {get_path('scripts')}/calls-mcp serve --sandbox" in demo.stdout


def test_the_demo_ends_with_the_next_step_for_an_installed_client(tmp_path: Path) -> None:
    (tmp_path / ".cursor").mkdir()
    demo = run("demo", PATH="", HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path / "none"))
    assert "Next: try it in Cursor\n" in demo.stdout
    assert demo.stdout.endswith("calls-mcp client-config cursor --sandbox --write\n")


@pytest.mark.process
def test_serve_in_a_terminal_says_what_it_waits_for() -> None:
    with on_terminal("serve", "--sandbox") as terminal:
        terminal.wait_for("it waits for a client on stdin")
        terminal.wait_for("Ctrl-C to stop.")
        terminal.type("\x04")
        assert terminal.ended() == (0, "")


@pytest.mark.process
def test_serve_outside_a_terminal_says_nothing() -> None:
    done = subprocess.run(  # our own program
        [sys.executable, "-m", "calls_mcp", "serve", "--sandbox"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    assert (done.stdout, done.stderr) == ("", "")


PIPED = (
    ["demo"],
    ["policy", "check"],
    ["tools"],
    ["doctor", "--sandbox"],
)


@pytest.mark.process
@pytest.mark.parametrize("arguments", PIPED, ids=" ".join)
def test_a_closed_pipe_is_not_a_failure(arguments: list[str]) -> None:
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
    (["doctor", "--bogus"], "usage_error"),
    (["client-config", "emacs"], "usage_error"),
    (["client-config", "zed", "--name", ""], "setup_error"),
    (["tools", "no_such_tool"], "setup_error"),
    (["call", "no_such_tool"], "setup_error"),
    (["call", "fetch_call", "sid"], "setup_error"),
    (["call"], "usage_error"),
)


@pytest.mark.parametrize(("arguments", "kind"), WRONG)
def test_errors_with_status_2_are_json_if_requested(arguments: list[str], kind: str) -> None:
    plain, told = run(*arguments), run(*arguments, "--json")
    assert (plain.returncode, plain.stdout) == (2, "")
    report = json.loads(told.stdout)
    assert (told.returncode, report["status"], report["error"]["kind"]) == (2, 2, kind)
    assert told.stderr == plain.stderr
    assert report["error"]["message"] in told.stderr
