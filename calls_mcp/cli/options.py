"""Options that several commands have."""

import getpass
from argparse import ArgumentParser


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
