"""The command line: a table of commands, each with a module of its own.

Only the module of the command that is asked for is imported, so that serving starts quickly.
"""

import argparse
import gc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import NoReturn, cast

from calls_mcp import __version__
from calls_mcp.errors import CallsError

COMMANDS: Mapping[str, str] = {
    "serve": "serve one MCP client on stdin and stdout (default)",
    "emulator": "run a stand-in for the Calls API",
    "audit": "export or check the audit log",
    "policy": "examine the operator's rules",
    "token": "make tokens for clients that come over HTTP",
    "doctor": "find out what is wrong with the set-up",
    "client-config": "print or write an MCP client's configuration",
    "tools": "list the tools as a model sees them, and their cost",
    "call": "run one tool, as a client does",
    "approvals": "decide what waits for the operator",
    "console": "open the operator's pages",
    "demo": "watch an agent use the tools, on the emulator",
}
"""What each command does. Its module has `configure(parser)`, which adds its arguments and sets
`run`: a function from the parsed options to the exit status."""

_DEFAULT = "serve"
_USAGE_ERROR = 2  # exit status
_OPTION = re.compile(r"--[A-Za-z][A-Za-z_-]*|-.")  # without its value


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; `calls-mcp` alone serves on stdio. Return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    try:
        options = _parse(words)
        return cast("int", options.run(options))
    except _WrongUsage as wrong:
        _report(words, "wrong_usage", str(wrong), wrong.usage)
        sys.exit(_USAGE_ERROR)
    except CallsError as error:
        _report(words, "wrong_setup", str(error), f"calls-mcp: {error}")
        return _USAGE_ERROR


class _WrongUsage(Exception):
    """The command line is wrong; `usage` says so as shell users expect it."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class _Parser(argparse.ArgumentParser):
    """A parser that raises its errors instead of printing them."""

    def error(self, message: str) -> NoReturn:
        raise _WrongUsage(message, f"{self.format_usage()}{self.prog}: error: {message}")


def _report(words: Sequence[str], kind: str, message: str, text: str) -> None:
    """Write an error to stderr for people, and to stdout for a script that asked for JSON."""
    from calls_mcp.cli.terminal import show_json, warn  # noqa: PLC0415

    if "--json" in words:
        show_json({"status": _USAGE_ERROR, "error": {"kind": kind, "message": message}})
    warn(text)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. No error message repeats a value, which may be a secret."""
    command = next((word for word in words if word in COMMANDS), None)
    parser = _parser(command or _DEFAULT)
    options, rest = parser.parse_known_args(words if command else [*words, _DEFAULT])
    if unknown := [found[0] for word in rest if (found := _OPTION.match(word))]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest and "arguments" not in options:
        parser.error(f"too many arguments, by {len(rest)}")
    if rest:  # argparse only accepts them on one side of the options
        options.arguments += rest
    return options


def _parser(command: str) -> argparse.ArgumentParser:
    """Return a parser that lists all commands and knows the arguments of one."""
    parser = _Parser(prog="calls-mcp", description="An MCP server for Twilio's Calls API.")
    parser.add_argument("--version", action="version", version=f"calls-mcp {__version__}")
    add_command = parser.add_subparsers(title="commands", metavar="COMMAND").add_parser
    for name, purpose in COMMANDS.items():
        added = add_command(
            name,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            _configure(command, added)
    return parser


def _configure(command: str, parser: argparse.ArgumentParser) -> None:
    gc.disable()  # while it is loaded: there is no garbage yet, and looking for it takes a tenth
    module = import_module(f"calls_mcp.cli.{command.replace('-', '_')}")
    gc.enable()
    configure = cast("Callable[[argparse.ArgumentParser], None]", module.configure)
    configure(parser)
