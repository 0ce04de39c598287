"""Options that several commands have."""

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
