"""`calls-mcp token`: make, list and revoke tokens."""

import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from calls_mcp.cli.atomic_files import replace_file
from calls_mcp.cli.terminal import say, warn
from calls_mcp.errors import ConfigurationError
from calls_mcp.http.principals import Entries, Token, new_token, read_entries
from calls_mcp.service.authorization import APPROVE, SCOPES, is_operator
from calls_mcp.settings import load_settings
from calls_mcp.tools.toml_files import read

_SECTION = re.compile(r"^(?=\[)", re.MULTILINE)
_COMMENTS = re.compile(r"(?:^[ \t]*#.*\n?|^[ \t]*\n)*\Z", re.MULTILINE)
_LONGEST = 3650  # days that a token can last
_SHORTEST = 8  # characters of a hash that tell which token is meant


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    new = commands.add_parser("new", help="make a token, and show it once")
    new.add_argument("name", help="whom it stands for")
    new.add_argument(
        "--scope",
        action="append",
        required=True,
        help="what it allows: calls:read, calls:place, calls:change, calls:delete; may be "
        "repeated; or, alone, calls:approve: an operator's way into the console",
    )
    new.add_argument("--expires", type=_days, default=90, metavar="DAYS", help="default: 90")
    new.set_defaults(run=_new)
    listing = commands.add_parser("list", help="tell whose tokens there are, and until when")
    listing.set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="take tokens out of the file: good no more")
    revoke.add_argument("which", help="a principal, or the beginning of a hash as `list` has it")
    revoke.set_defaults(run=_revoke)
    for command in (new, listing, revoke):
        command.add_argument(
            "--file", type=Path, help="file of principals; by default CALLS_MCP_PRINCIPALS"
        )


def _days(text: str) -> int:
    days = int(text)
    if not 1 <= days <= _LONGEST:
        raise ArgumentTypeError(f"must be 1 to {_LONGEST} days")
    return days


def _new(options: Namespace) -> int:
    """Make a token; its entry is appended to the file of principals, or shown if there is none."""
    file = _principals(options)
    _require_valid(options.name, options.scope)
    expires = (datetime.now(UTC) + timedelta(days=options.expires)).replace(microsecond=0)
    token, entry = new_token(options.name, options.scope, expires)
    text = read(file) if file and file.exists() else ""
    addition = f"{_gap_after(text)}{entry}"
    read_entries(file or Path("the entry"), text + addition)  # a file that would be wrong stays
    if file is not None:
        _append(file, addition)
    say(token)
    told = f"Its entry was added to {file}." if file else f"Its entry:\n\n{entry}"
    warn(f"This token is not shown again. {told}")
    return 0


def _require_valid(principal: str, scopes: Collection[str]) -> None:
    if not principal.isprintable():
        raise ConfigurationError("The name must be one line, without control characters.")
    if unknown := sorted({*scopes}.difference(SCOPES)):
        raise ConfigurationError(f"--scope {unknown[0]}: there are {', '.join(SCOPES)}.")
    if APPROVE in scopes and not is_operator(scopes):
        raise ConfigurationError(
            f"--scope {APPROVE} goes alone: who may use tools must not approve what they do."
        )


def _list(options: Namespace) -> int:
    file = _require_principals(options)
    for line in _lines(read_entries(file, read(file)).tokens):
        say(line)
    return 0


def _revoke(options: Namespace) -> int:
    """Take tokens out of the file: those of a principal, or the one whose hash begins so."""
    file, which = _require_principals(options), options.which
    text = read(file)
    before = read_entries(file, text)
    revoked = [token for token in before.tokens if _is_meant(token, which)]
    if not revoked:
        raise ConfigurationError(f"{file}: there is no token of {which}; see: calls-mcp token list")
    left = "".join(_without(section, revoked) for section in _SECTION.split(text))
    kept = tuple(token for token in before.tokens if token not in revoked)
    if not _has_entries(file, left, before.model_copy(update={"tokens": kept})):
        raise ConfigurationError(f"{file}: can't be edited safely; take the token out by hand")
    _replace(file, left)
    for line in _lines(revoked):
        say(f"revoked: {line}")
    return 0


def _principals(options: Namespace) -> Path | None:
    return options.file or load_settings().auth.principals


def _require_principals(options: Namespace) -> Path:
    file = _principals(options)
    if file is None:
        raise ConfigurationError("Which file? Set CALLS_MCP_PRINCIPALS, or give --file.")
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
    """A section as it is or, if it is one of these tokens', the comments that come after it."""
    is_gone = section.startswith("[[tokens]]") and any(t.sha256 in section for t in tokens)
    comments = _COMMENTS.search(section) if is_gone else None
    return comments[0] if comments else section


def _lines(tokens: Sequence[Token]) -> Iterator[str]:
    width = max((len(token.principal) for token in tokens), default=0)
    for token in tokens:
        lasts = "expires" if token.expires > datetime.now(UTC) else "expired"
        when = token.expires.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
        scopes = " ".join(sorted(token.scopes))
        yield f"{token.principal:<{width}}  {token.sha256[:12]}…  {lasts} {when}  {scopes}"


def _replace(file: Path, text: str) -> None:
    """All at once, for servers read it meanwhile: an empty file would let nobody in.

    Raises:
        ConfigurationError: It can't be replaced.
    """
    try:
        replace_file(file, text.encode())
    except OSError as failure:
        reason = f"can't be replaced: {failure.strerror}; take the token out by hand"
        raise ConfigurationError(f"{file}: {reason}") from failure


def _gap_after(text: str) -> str:
    if not text:
        return ""
    return "\n" if text.endswith("\n") else "\n\n"


def _append(file: Path, text: str) -> None:
    """In place, so that the file stays whose it is; a new one is for its owner alone.

    Raises:
        ConfigurationError: It can't be written.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8", newline="\n") as opened:
            opened.write(text)
    except OSError as failure:
        raise ConfigurationError(f"{file}: can't be written: {failure.strerror}") from failure
