"""`calls-mcp token`: tokens are made here, and shown once."""

import os
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from calls_mcp.authentication.principals import Token, read_entries
from calls_mcp.authentication.tokens import new_token
from calls_mcp.tomlfile import read


def make_token(
    file: Path | None, principal: str, scopes: Collection[str], days: int
) -> tuple[str, str]:
    """A new token that is good for so many days, and its entry, which is appended to `file`.

    Raises:
        ConfigurationError: The file is wrong, or would be with this entry.
    """
    expires = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    token, entry = new_token(principal, scopes, expires)
    text = read(file) if file and file.exists() else ""
    addition = f"{_gap_after(text)}{entry}"
    read_entries(file or Path("the entry"), text + addition)
    if file is not None:
        _append(file, addition)
    return token, entry


def listed(file: Path) -> Iterator[str]:
    """A line about each token in `file`.

    Raises:
        ConfigurationError: The file is wrong.
    """
    now = datetime.now(UTC)
    tokens = read_entries(file, read(file)).tokens
    width = max((len(token.principal) for token in tokens), default=0)
    return (_line(token, width, now) for token in tokens)


def _line(token: Token, width: int, now: datetime) -> str:
    lasts = "expires" if token.expires > now else "expired"
    when = token.expires.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    scopes = " ".join(sorted(token.scopes))
    return f"{token.principal:<{width}}  {token.sha256[:12]}…  {lasts} {when}  {scopes}"


def _gap_after(text: str) -> str:
    if not text:
        return ""
    return "\n" if text.endswith("\n") else "\n\n"


def _append(file: Path, text: str) -> None:
    """In place, so that the file stays whose it is; a new one is for its owner alone."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8", newline="\n") as opened:
        opened.write(text)
