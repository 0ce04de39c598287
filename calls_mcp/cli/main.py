"""The command line: a table of commands, each with its own module.

Only the module of the requested command is imported, so that a server starts quickly.
"""

import argparse
import gc
import re
import sys
from argparse import HelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import NoReturn, cast

from calls_mcp import __version__
from calls_mcp.cli.options import add_common_options, apply_common_options, sentence
from calls_mcp.errors import CallsError
from calls_mcp.observability import stderr

COMMANDS: Mapping[str, str] = {
    "serve": "serve one MCP client on stdin and stdout, or many over HTTP",
    "demo": "watch an agent use the tools on the built-in emulator",
    "client-config": "print or write the configuration of an MCP client",
    "doctor": "check your setup and suggest fixes",
    "call": "call one tool, as an MCP client does",
    "tools": "list the tools as a model sees them, with their cost in tokens",
    "approvals": "list, approve and deny approval requests",
    "console": "serve the operator's web pages",
    "policy": "check and explain a policy",
    "audit": "search, export or verify the audit log",
    "token": "create, list and revoke tokens for clients over HTTP",
    "emulator": "run an emulator of the Calls API",
    "completion": "print a completion script for your shell",
}
"""What each command does. Its module has `configure(parser)`, which adds its arguments and sets
`run`: a function from the parsed options to the exit status."""

_GENERAL = (["-h"], ["--help"], ["-V"], ["--version"])
_WITHOUT_SETTINGS = ("demo", "emulator", "completion")
_DEFAULT = "serve"
_USAGE_ERROR = 2  # exit status
_OPTION = re.compile(r"--[A-Za-z][A-Za-z_-]*|-.")  # without its value
_EPILOG = """\
examples:
  calls-mcp demo
  calls-mcp client-config claude-desktop --sandbox --write
  calls-mcp call list_calls limit=5

exit status:
  0    success
  1    the command ran and reports a failure: a tool returned an error, doctor found a problem,
       the audit log was changed, or an approval request was already decided
  2    usage or setup error: nothing was done
  3    call: declined, denied, expired or withdrawn
  4    call: waiting for a confirmation, or for the operator
  130  call: interrupted

Without a command, `calls-mcp` runs `calls-mcp serve`.
`calls-mcp COMMAND --help` describes a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; `calls-mcp` alone serves on stdio. Return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    try:
        options = _parse(words)
        apply_common_options(options)
        return cast("int", options.run(options))
    except _UsageError as wrong:
        _report(words, "usage_error", str(wrong), wrong.usage)
        sys.exit(_USAGE_ERROR)
    except CallsError as error:
        _report(words, "setup_error", str(error), f"calls-mcp: {error}")
        return _USAGE_ERROR


def complete_parser() -> argparse.ArgumentParser:
    """Return a parser that knows the arguments of every command."""
    return _parser(COMMANDS)


class _UsageError(Exception):
    """The command line is wrong; `usage` is the text for a terminal."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class _Parser(argparse.ArgumentParser):
    """A parser that has the common options and raises its errors instead of printing them.

    Its subparsers are of this class, too.
    """

    def __init__(
        self,
        *,
        prog: str,
        description: str = "",
        epilog: str = "",
        formatter_class: type[HelpFormatter] = RawDescriptionHelpFormatter,
        has_settings: bool = True,
    ) -> None:
        super().__init__(
            prog=prog, description=description, epilog=epilog, formatter_class=formatter_class
        )
        if has_settings:
            add_common_options(self)

    def error(self, message: str) -> NoReturn:
        raise _UsageError(message, f"{self.format_usage()}{self.prog}: error: {message}")


def _report(words: Sequence[str], kind: str, message: str, text: str) -> None:
    """Write an error to stderr for people, and to stdout for a script that asked for JSON."""
    from calls_mcp.cli.terminal import show_json, warn  # noqa: PLC0415

    if "--json" in words:
        show_json({"status": _USAGE_ERROR, "error": {"kind": kind, "message": message}})
    warn(text)
    stderr.flush()


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. No error message repeats a value, which may be a secret."""
    command = next((word for word in words if word in COMMANDS), None)
    parser = _parser([] if [*words[:1]] in _GENERAL else [command or _DEFAULT])
    options, rest = parser.parse_known_args(words if command else [*words, _DEFAULT])
    if unknown := [found[0] for word in rest if (found := _OPTION.match(word))]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest and "arguments" not in options:
        noun = "argument" if len(rest) == 1 else "arguments"
        first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
        advice = "; arguments go before options" if {*rest} & {*words[first:]} else ""
        parser.error(f"{len(rest)} unexpected {noun}{advice}")
    if rest:  # argparse only accepts them on one side of the options
        options.arguments += rest
    return options


def _parser(known: Sequence[str] | Mapping[str, str]) -> _Parser:
    """Return a parser that lists all commands and knows the arguments of some."""
    parser = _Parser(
        prog="calls-mcp",
        description="An MCP server that lets AI agents make phone calls with Twilio, safely.",
        epilog=_EPILOG,
    )
    parser.add_argument("-V", "--version", action="version", version=f"calls-mcp {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        added = commands.add_parser(
            name,
            help=purpose,
            description=sentence(purpose),
            has_settings=name in known and name not in _WITHOUT_SETTINGS,
        )
        if name in known:
            _configure(name, added)
    return parser


def _configure(command: str, parser: argparse.ArgumentParser) -> None:
    gc.disable()  # there is no garbage yet, and looking for it takes a tenth of the time
    module = import_module(f"calls_mcp.cli.{command.replace('-', '_')}")
    gc.enable()
    configure = cast("Callable[[argparse.ArgumentParser], None]", module.configure)
    configure(parser)
