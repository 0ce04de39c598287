"""`calls-mcp token`: create, list and revoke tokens."""

import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from calls_mcp.cli.atomic_files import replace_file
from calls_mcp.cli.options import add_commands, add_json
from calls_mcp.cli.terminal import say, show_json, show_table, warn
from calls_mcp.errors import ConfigurationError
from calls_mcp.http.principals import Entries, Token, new_token, read_entries, valid_name
from calls_mcp.service.grants import APPROVE, SCOPES, is_operator
from calls_mcp.settings import load_path
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.toml_files import read

_EPILOG = """\
examples:
  calls-mcp token new billing-agent --scope calls:read --expires 30
  calls-mcp token list
  calls-mcp token revoke billing-agent
"""
_NEW_EPILOG = """\
example:
  calls-mcp token new billing-agent --scope calls:read --expires 30
"""
_LIST_EPILOG = """\
example:
  calls-mcp token list
"""
_REVOKE_EPILOG = """\
example:
  calls-mcp token revoke billing-agent
"""
_SECTION = re.compile(r"^(?=\[)", re.MULTILINE)
_COMMENTS = re.compile(r"(?:^[ \t]*#.*\n?|^[ \t]*\n)*\Z", re.MULTILINE)
_LONGEST = 3650  # days that a token can last
_SHORTEST = 8  # characters of a hash that identify a token
_SHOWN = 12  # characters of a hash that are shown


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    new, listing, revoke = add_commands(
        parser,
        ("new", "create a token and show it once", _NEW_EPILOG),
        ("list", "list the tokens: principal, expiry and scopes", _LIST_EPILOG),
        ("revoke", "revoke tokens", _REVOKE_EPILOG),
    )
    _configure_new(new)
    add_json(listing, "the tokens")
    listing.set_defaults(run=_list)
    revoke.add_argument(
        "which",
        metavar="PRINCIPAL|HASH",
        help="principal, or start of a hash from `token list`",
    )
    revoke.set_defaults(run=_revoke)
    for command in (new, listing, revoke):
        command.add_argument(
            "--file",
            type=Path,
            help="principals file (default: the one in CALLS_MCP_PRINCIPALS)",
        )


def _configure_new(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option("name", metavar="NAME", help="client or operator that uses the token (its principal)")
    option(
        "--scope",
        action="append",
        required=True,
        help="what it allows: calls:read, calls:place, calls:change or calls:delete (repeatable); "
        "or only calls:approve, to sign in to the operator's console",
    )
    option(
        "--expires",
        type=_days,
        default=90,
        metavar="DAYS",
        help="days until it expires (default: %(default)s)",
    )
    parser.set_defaults(run=_new)


def _days(text: str) -> int:
    days = int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
    if not 1 <= days <= _LONGEST:
        raise ArgumentTypeError(f"must be 1 to {_LONGEST} days")
    return days


def _new(options: Namespace) -> int:
    """Create a token. Append its entry to the principals file, or show it if there is no file.

    Return the exit status.
    """
    file = _principals(options)
    _require_valid(options.name, options.scope)
    expires = (datetime.now(UTC) + timedelta(days=options.expires)).replace(microsecond=0)
    token, entry = new_token(options.name, options.scope, expires)
    text = read(file) if file and file.exists() else ""
    addition = f"{_gap_after(text)}{entry}"
    read_entries(file or Path("the entry"), text + addition)  # before it is written
    if file is not None:
        _append(file, addition)
    say(token)
    where = (
        f"Added its entry to {file}."
        if file
        else f"Add this entry to the principals file:\n\n{entry}"
    )
    warn(f"Copy the token now. You won't see it again. {where}")
    return 0


def _require_valid(principal: str, scopes: Collection[str]) -> None:
    try:
        valid_name(principal)
    except ValueError as wrong:
        raise ConfigurationError(f"The name {wrong}.") from None
    if unknown := sorted({*scopes}.difference(SCOPES)):
        raise ConfigurationError(f"--scope {unknown[0]}: must be one of {', '.join(SCOPES)}.")
    if APPROVE in scopes and not is_operator(scopes):
        raise ConfigurationError(
            f"--scope {APPROVE} can't be combined with other scopes: an agent must not approve its "
            "own calls."
        )


def _list(options: Namespace) -> int:
    file = _require_principals(options)
    tokens = read_entries(file, read(file)).tokens
    if options.json:
        show_json({"tokens": [*map(_report, tokens)]})
    elif tokens:
        show_table(("principal", "token", "expires", "scopes"), [*map(_row, tokens)])
    else:
        say(f"{file} has no tokens.")
    return 0


def _revoke(options: Namespace) -> int:
    """Remove the tokens of a principal, or the one with this hash, from the file.

    Return the exit status.
    """
    file, which = _require_principals(options), options.which
    text = read(file)
    before = read_entries(file, text)
    revoked = [token for token in before.tokens if _is_meant(token, which)]
    if not revoked:
        same = f" --file {options.file}" if options.file else ""
        raise ConfigurationError(
            f"{file} has no token for {which}; see: calls-mcp token list{same}"
        )
    left = "".join(_without(section, revoked) for section in _SECTION.split(text))
    kept = tuple(token for token in before.tokens if token not in revoked)
    if not _has_entries(file, left, before.model_copy(update={"tokens": kept})):
        raise ConfigurationError(f"{file} can't be edited safely; remove the token by hand")
    _replace(file, left)
    for token in revoked:
        say(f"Revoked: token {token.sha256[:_SHOWN]}… of {token.principal}")
    return 0


def _principals(options: Namespace) -> Path | None:
    return options.file or load_path("CALLS_MCP_PRINCIPALS")


def _require_principals(options: Namespace) -> Path:
    file = _principals(options)
    if file is None:
        raise ConfigurationError("No principals file: set CALLS_MCP_PRINCIPALS or pass --file.")
    return file


def _has_entries(file: Path, text: str, entries: Entries) -> bool:
    try:
        return read_entries(file, text) == entries
    except ConfigurationError:
        return False


def _is_meant(token: Token, which: str) -> bool:
    begins = which.removesuffix("…")
    is_hash = len(begins) >= _SHORTEST and token.sha256.startswith(begins)
    return token.principal == which or is_hash


def _without(section: str, tokens: Sequence[Token]) -> str:
    """Return a section, or only the comments after it if it is the entry of one of `tokens`."""
    is_gone = section.startswith("[[tokens]]") and any(t.sha256 in section for t in tokens)
    comments = _COMMENTS.search(section) if is_gone else None
    return comments[0] if comments else section


def _row(token: Token) -> tuple[str, str, str, str]:
    expires = token.expires.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    shown = f"{expires} (expired)" if _has_expired(token) else expires
    return token.principal, f"{token.sha256[:_SHOWN]}…", shown, " ".join(sorted(token.scopes))


def _report(token: Token) -> dict[str, Json]:
    return {
        "principal": token.principal,
        "sha256": token.sha256,
        "scopes": [*sorted(token.scopes)],
        "expires": token.expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "expired": _has_expired(token),
    }


def _has_expired(token: Token) -> bool:
    return token.expires <= datetime.now(UTC)


def _replace(file: Path, text: str) -> None:
    """Replace the file in one step, because servers may read it at any time.

    Raises:
        ConfigurationError: It can't be replaced.
    """
    try:
        replace_file(file, text.encode())
    except OSError as failure:
        reason = f"can't be replaced: {failure.strerror}; remove the token by hand"
        raise ConfigurationError(f"{file} {reason}") from failure


def _gap_after(text: str) -> str:
    if not text:
        return ""
    return "\n" if text.endswith("\n") else "\n\n"


def _append(file: Path, text: str) -> None:
    """Append in place, which keeps the owner and mode. Only the owner can read a new file.

    Raises:
        ConfigurationError: It can't be written.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8", newline="\n") as opened:
            opened.write(text)
    except OSError as failure:
        raise ConfigurationError(f"{file} can't be written: {failure.strerror}") from failure
