"""`calls-mcp token`: tokens are made here, and shown once."""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from calls_mcp.errors import ConfigurationError
from calls_mcp.http.principals import Token, read_entries
from calls_mcp.http.tokens import new_token
from calls_mcp.service.grants import APPROVE, SCOPES, is_operators
from calls_mcp.storage.atomic_files import replace_file
from calls_mcp.tools.toml_files import read

_SECTION = re.compile(r"^(?=\[)", re.MULTILINE)
_COMMENTS = re.compile(r"(?:^[ \t]*#.*\n?|^[ \t]*\n)*\Z", re.MULTILINE)
_SHORTEST = 8  # characters of a hash that tell which token is meant


def make_token(
    file: Path | None, principal: str, scopes: Collection[str], days: int
) -> tuple[str, str]:
    """A new token that is good for so many days, and its entry, which is appended to `file`.

    Raises:
        ConfigurationError: The file is wrong, or would be with this entry.
    """
    if not principal.isprintable():
        raise ConfigurationError("The name must be one line, without control characters.")
    if unknown := sorted({*scopes}.difference(SCOPES)):
        raise ConfigurationError(f"--scope {unknown[0]}: there are {', '.join(SCOPES)}.")
    if APPROVE in scopes and not is_operators(scopes):
        raise ConfigurationError(
            f"--scope {APPROVE} goes alone: who may use tools must not approve what they do."
        )
    expires = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    token, entry = new_token(principal, scopes, expires)
    text = read(file) if file and file.exists() else ""
    addition = f"{_gap_after(text)}{entry}"
    read_entries(file or Path("the entry"), text + addition)
    if file is not None:
        _append(file, addition)
    return token, entry


def revoke(file: Path, which: str) -> Sequence[str]:
    """Take tokens out of `file`: those of a principal, or the one whose hash begins so.

    Returns:
        A line about each of them.

    Raises:
        ConfigurationError: The file is wrong, has none, or is written so that it must be edited by
            hand.
    """
    text = read(file)
    before = read_entries(file, text)
    gone = [token for token in before.tokens if _is_meant(token, which)]
    if not gone:
        raise ConfigurationError(f"{file}: there is no token of {which}; see: calls-mcp token list")
    left = "".join(_without(part, gone) for part in _SECTION.split(text))
    try:
        after = read_entries(file, left)
    except ConfigurationError:
        after = before
    kept = tuple(token for token in before.tokens if token not in gone)
    if after != before.model_copy(update={"tokens": kept}):
        raise ConfigurationError(f"{file}: can't be edited safely; take the token out by hand")
    _replace(file, left)
    return [*_lines(gone)]


def listed(file: Path) -> Iterator[str]:
    """A line about each token in `file`.

    Raises:
        ConfigurationError: The file is wrong.
    """
    return _lines(read_entries(file, read(file)).tokens)


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
    """In place, so that the file stays whose it is; a new one is for its owner alone."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8", newline="\n") as opened:
        opened.write(text)
