"""Options that several commands have."""

import argparse
import getpass
import os
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from calls_mcp.errors import ConfigurationError, FileError

_LINE = r"""(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*
    (?:'(?P<single>[^']*)'|"(?P<double>[^"\\]*)"|(?P<plain>[^'"\#\s](?:[^'"]*?[^'"\s])??)?)
    \s*(?:(?<![^\s='"])\#.*)?"""


def sentence(purpose: str) -> str:
    """Return what a command does as a sentence."""
    return f"{purpose[0].upper()}{purpose[1:]}."


def add_commands(
    parser: ArgumentParser, *commands: tuple[str, str, str]
) -> Iterator[ArgumentParser]:
    """Add subcommands by their name, purpose and epilog, and yield their parsers."""
    added = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, purpose, epilog in commands:
        yield added.add_parser(name, help=purpose, description=sentence(purpose), epilog=epilog)


def add_common_options(parser: ArgumentParser) -> None:
    """Add the options of every command with settings, before or after the command's name."""
    option = parser.add_argument_group("common options", argument_default=argparse.SUPPRESS)
    option.add_argument(
        "--env-file",
        metavar="FILE",
        help="read settings from FILE (KEY=VALUE lines); environment variables take precedence",
    )
    option.add_argument("-q", "--quiet", action="store_true", help="log errors only")
    option.add_argument(
        "-v", "--verbose", action="count", help="log more: -v for INFO, -vv for DEBUG"
    )


def apply_common_options(options: argparse.Namespace) -> None:
    """Put the common options into the environment, where the settings are read from.

    Raises:
        ConfigurationError: The file of settings can't be read.
    """
    if "env_file" in options:
        _load_env_file(options.env_file)
    if "verbose" in options:
        os.environ["CALLS_MCP_LOG_LEVEL"] = "INFO" if options.verbose == 1 else "DEBUG"
    elif "quiet" in options:
        os.environ["CALLS_MCP_LOG_LEVEL"] = "ERROR"


def add_sandbox(parser: ArgumentParser) -> None:
    """Add `--sandbox`."""
    parser.add_argument(
        "--sandbox",
        action="store_true",
        help="use the built-in emulator: no credentials, no real calls",
    )


def add_sandbox_of_servers(parser: ArgumentParser) -> None:
    """Add `--sandbox` for a command that shares the state of servers."""
    parser.add_argument(
        "--sandbox", action="store_true", help="use the database of servers started with --sandbox"
    )


def add_json(parser: ArgumentParser, what: str) -> None:
    """Add `--json`, which prints `what`."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def user_name() -> str:
    """Return the name of this user; in a container there may be none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "operator"


def _load_env_file(name: str) -> None:
    """Set each variable in the file `name` that the environment does not have.

    Raises:
        ConfigurationError: The file can't be read, or lines are wrong. The message has the numbers
            of all of them and never their text, which may be a secret.
    """
    try:
        text = Path(name).read_text("utf-8-sig")
    except OSError as failure:
        raise ConfigurationError(f"--env-file {name}: {failure.strerror}.") from failure
    except UnicodeDecodeError:
        raise ConfigurationError(f"--env-file {name}: must be UTF-8.") from None
    for variable, value in _variables(name, text).items():
        os.environ.setdefault(variable, value)


def _variables(file: str, text: str) -> dict[str, str]:
    variables: dict[str, str] = {}
    wrong: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = re.fullmatch(_LINE, line.strip(), re.VERBOSE)
        if found is None or "\0" in line:
            wrong.append(
                f"--env-file {file}: line {number}: must be KEY=VALUE. Put single quotes around a "
                "value that contains # or quotation marks."
            )
        elif (name := found["name"]) in variables:
            wrong.append(f"--env-file {file}: line {number}: sets {name} again.")
        else:
            variables[name] = found["single"] or found["double"] or found["plain"] or ""
    if wrong:
        raise FileError(wrong)
    return variables
