"""`calls-mcp audit`: export the audit log as JSON lines, and check its chain."""

import os
import select
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from types import FrameType

from calls_mcp.audit import audit_path
from calls_mcp.audit.search import AuditReader, Filter
from calls_mcp.audit.verification import describe, verify
from calls_mcp.cli.terminal import say
from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import load_settings

_TAMPERED = 1  # exit status
_POLL_INTERVAL = 0.25  # seconds


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    export = commands.add_parser("export", help="write the records to stdout as JSON lines")
    export.add_argument(
        "--follow", action="store_true", help="go on with new records, until Ctrl+C"
    )
    export.add_argument(
        "--since",
        type=_time,
        metavar="TIME",
        help="from then on: ISO 8601, such as 2026-01-31 or 2026-01-31T09:00Z",
    )
    export.set_defaults(run=_export)
    verify = commands.add_parser(
        "verify", help="find records that were edited, removed or inserted"
    )
    verify.add_argument(
        "file", type=Path, nargs="?", help="a database or exported lines (default: the log in use)"
    )
    verify.add_argument("--expect", metavar="HASH", help="a hash that must be in it")
    verify.set_defaults(run=_verify)
    for command in (export, verify):
        command.add_argument("--sandbox", action="store_true", help="the sandbox's log")


def _time(text: str) -> str:
    """Return an ISO 8601 time as the audit log has it, in UTC, which is the default zone."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError("must be ISO 8601, such as 2026-01-31T09:00Z") from None
    return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC).isoformat()[:19]


def _verify(options: Namespace) -> int:
    """Check the chain of a log, by default the one in use. Return the exit status.

    Raises:
        ConfigurationError: The log can't be read, is not one, or does not exist yet.
    """
    path = options.file or _path(sandbox=options.sandbox)
    if not options.file:
        _require(path, sandbox=options.sandbox)
    report = verify(path, options.expect)
    say("\n".join(describe(report)))
    return 0 if report.is_intact else _TAMPERED


def _export(options: Namespace) -> int:
    """Write the records to stdout, one per line, exactly as they are stored.

    With `follow`, write new ones too, until SIGINT, SIGTERM, or the reader of stdout has gone.

    Raises:
        ConfigurationError: The log can't be read, or does not exist yet.
    """
    path = _path(sandbox=options.sandbox)
    if not options.follow:
        _require(path, sandbox=options.sandbox)
    ended = _signals() if options.follow else []
    reader, wanted, last = AuditReader(path), Filter(since=options.since or ""), None
    try:
        while True:
            for seq, line in reader.rows(wanted, last):
                sys.stdout.buffer.write(line + b"\n")
                last = seq
            sys.stdout.buffer.flush()
            if not options.follow or ended or _is_reader_gone():
                return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at the end
        return 0


def _path(*, sandbox: bool) -> Path:
    path = audit_path(load_settings(), sandbox=sandbox)
    if path is None:
        raise ConfigurationError(
            "The audit log goes to each server's stderr. To have it here, set "
            "CALLS_MCP_AUDIT_DATABASE to a file; to check lines that were collected, name the file "
            "with them: calls-mcp audit verify FILE"
        )
    return path


def _require(path: Path, *, sandbox: bool) -> None:
    if not path.exists():
        other = "" if sandbox else " The sandbox has its own: add --sandbox."
        raise ConfigurationError(f"There is no audit log yet at {path}.{other}")


def _signals() -> list[int]:
    """Return a list that collects the signals received; a second one ends the process."""
    received: list[int] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, receive)
    return received


def _is_reader_gone() -> bool:
    """Wait a moment. Return whether the reader of stdout has gone, where that is known."""
    if not hasattr(select, "poll"):  # on Windows
        sleep(_POLL_INTERVAL)
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(1000 * _POLL_INTERVAL))
