"""`calls-mcp audit`: search, export and verify the audit log."""

import os
import re
import select
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from types import FrameType
from typing import get_args

from calls_mcp.audit.log import audit_path
from calls_mcp.audit.records import Decision
from calls_mcp.audit.search import AuditReader, Filter, Found
from calls_mcp.audit.verification import Report, describe, verify
from calls_mcp.cli.options import add_commands, add_json
from calls_mcp.cli.terminal import painted, progress, say, show_json, show_table
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability.redaction import escape_invisible, one_line
from calls_mcp.settings import load_settings
from calls_mcp.tools.catalog import load_operations

_EPILOG = """\
examples:
  calls-mcp audit search --since 2026-01-31 --tool create_call
  calls-mcp audit export --follow
  calls-mcp audit verify

exit status:
  0  success
  1  verify: the audit log was changed after it was written
  2  usage or setup error, or the audit log can't be read
"""
_SEARCH_EPILOG = """\
examples:
  calls-mcp audit search
  calls-mcp audit search --tool create_call --decision refused
  calls-mcp audit search --since 2026-01-31T09:00Z CA00000000000000000000000000000000

decisions:
  asked      a confirmation or an approval was requested
  approved   the operator approved the request
  denied     the operator denied the request
  allowed    the change was allowed, then sent
  refused    the server refused the change, for example because of the policy
  declined   the user declined the change
  expired    the confirmation or approval was no longer valid
  withdrawn  the approval request was no longer needed
  replayed   a confirmation was used again, and nothing was sent
  void       the operator's decision did not count
"""
_EXPORT_EPILOG = """\
examples:
  calls-mcp audit export > audit.jsonl
  calls-mcp audit export --since 2026-01-31 --follow
"""
_VERIFY_EPILOG = """\
examples:
  calls-mcp audit verify
  calls-mcp audit verify audit.jsonl --expect HASH

exit status:
  0  all records are intact and in order
  1  the audit log was changed after it was written
  2  usage or setup error, or the audit log can't be read
"""
_DECISIONS: tuple[str, ...] = get_args(Decision)
_TAMPERED, _UNREADABLE = 1, 2  # exit statuses
_POLL_INTERVAL = 0.25  # seconds
_MOST = 1_000_000  # records of a search
_LONGEST_CELL = 60  # characters


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    search, export, verify = add_commands(
        parser,
        ("search", "list matching records, newest first", _SEARCH_EPILOG),
        ("export", "write the records to stdout as JSON lines, as they are stored", _EXPORT_EPILOG),
        ("verify", "find records that were edited, removed or inserted", _VERIFY_EPILOG),
    )
    _configure_search(search)
    _configure_export(export)
    _configure_verify(verify)
    for command in (search, export):
        command.add_argument(
            "--since",
            type=_time,
            metavar="TIME",
            help="records from this time on, such as 2026-01-31 or 2026-01-31T09:00Z",
        )
    for command in (search, export, verify):
        command.add_argument("--sandbox", action="store_true", help="use the sandbox's audit log")


def _configure_search(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option("text", nargs="?", metavar="TEXT", help="text anywhere in a record")
    option("--tool", metavar="NAME", choices=[*load_operations()], help="records of this tool")
    option(
        "--decision",
        metavar="WORD",
        choices=_DECISIONS,
        help=f"{', '.join(_DECISIONS[:-1])} or {_DECISIONS[-1]}",
    )
    option("--principal", metavar="NAME", help="records of this principal")
    option(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help="maximum number of records (default: %(default)s)",
    )
    add_json(parser, "the records")
    parser.set_defaults(run=_search)


def _configure_export(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option("--follow", action="store_true", help="keep writing new records, until Ctrl-C")
    parser.set_defaults(run=_export)


def _configure_verify(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="a database or exported JSON lines (default: the configured audit log)",
    )
    option("--expect", type=_hash, metavar="HASH", help="fail unless a record has this hash")
    add_json(parser, "the report")
    parser.set_defaults(run=_verify)


def _time(text: str) -> str:
    """Return an ISO 8601 time in UTC, as the audit log has it. The default time zone is UTC."""
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC).isoformat()[:19]
    except (ValueError, OverflowError):
        raise ArgumentTypeError("must be ISO 8601, such as 2026-01-31T09:00Z") from None


def _hash(text: str) -> str:
    """Return a hash; an empty one would check nothing."""
    if not re.fullmatch("[0-9a-fA-F]{64}", text.strip()):
        raise ArgumentTypeError("must be the 64 hex digits of a hash")
    return text


def _search(options: Namespace) -> int:
    """List the newest records that match. Return the exit status.

    Raises:
        ConfigurationError: The log can't be read, or does not exist yet.
    """
    if not 1 <= options.limit <= _MOST:
        raise ConfigurationError(f"--limit must be 1 to {_MOST}; got {options.limit}.")
    path = _path(sandbox=options.sandbox)
    _require(path, sandbox=options.sandbox)
    names = ("text", "tool", "decision", "principal", "since")
    wanted = Filter(**{name: getattr(options, name) or "" for name in names})
    reader, records, before = AuditReader(path), list[Found](), None
    with progress("records found") as show:
        while len(records) < options.limit:
            found, before = reader.page(wanted, options.limit - len(records), before)
            records += found
            show(len(records))
            if before is None:
                break
    if options.json:
        show_json([record.fields for record in records])
    elif records:
        show_table(("time", "record", "tool", "principal", "result"), [*map(_row, records)])
    else:
        say("No matching records.")
    return 0


def _row(record: Found) -> tuple[str, str, str, str, str]:
    names = ("time", "seq", "tool", "principal")
    time, seq, tool, principal = (
        one_line(str(record.fields.get(name, "")), _LONGEST_CELL) for name in names
    )
    fields = (record.fields.get(name) for name in ("decision", "outcome", "error_kind", "sid"))
    words = [one_line(str(field), _LONGEST_CELL) for field in fields if field]
    result = " ".join(words) if record.is_intact else "this record was edited"
    return time, seq, tool, principal, result


def _verify(options: Namespace) -> int:
    """Check the chain of a log, by default that of the settings. Return the exit status.

    Raises:
        ConfigurationError: The log can't be read, is not an audit log, or does not exist yet.
    """
    path = options.file or _path(sandbox=options.sandbox)
    if not options.file:
        _require(path, sandbox=options.sandbox)
    with progress("records checked") as show:
        report = verify(path, options.expect, show=show)
    if options.json:
        show_json({"is_intact": report.is_intact, **asdict(report)})
    else:
        _show(report)
    if report.is_intact:
        return 0
    return _TAMPERED if report.records else _UNREADABLE


def _show(report: Report) -> None:
    for line in describe(report):
        say(painted(line, "red") if line.startswith("Problem: ") else line)


def _export(options: Namespace) -> int:
    """Write the records to stdout, one a line, exactly as they are stored. Return the exit status.

    With `follow`, write new ones too, until SIGINT or SIGTERM, or until the reader closes stdout.

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
            last = _write_after(reader, wanted, last)
            if not options.follow or ended or _is_reader_gone():
                return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at the end
        return 0


def _write_after(reader: AuditReader, wanted: Filter, last: int | None) -> int | None:
    """Write the wanted records after the number `last`. Return the number of the last one."""
    is_terminal = sys.stdout.isatty()
    with progress("records exported") as show:
        for count, (seq, line) in enumerate(reader.rows(wanted, last), 1):
            if is_terminal:  # somebody may have edited the stored record
                line = escape_invisible(line.decode(errors="replace")).encode()  # noqa: PLW2901
            sys.stdout.buffer.write(line + b"\n")
            last = seq
            if not is_terminal:
                show(count)
    sys.stdout.buffer.flush()
    return last


def _path(*, sandbox: bool) -> Path:
    path = audit_path(load_settings(), sandbox=sandbox)
    if path is None:
        raise ConfigurationError(
            "The servers write the audit log to stderr. To write it to a database instead, set "
            "CALLS_MCP_AUDIT_DATABASE to a file. To verify lines that you collected: "
            "calls-mcp audit verify FILE"
        )
    return path


def _require(path: Path, *, sandbox: bool) -> None:
    if not path.exists():
        other = "" if sandbox else " For the sandbox's, add --sandbox."
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
    """Wait a moment. Return whether stdout was closed by its reader; on Windows always False."""
    if not hasattr(select, "poll"):
        sleep(_POLL_INTERVAL)
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(1000 * _POLL_INTERVAL))
