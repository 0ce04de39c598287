"""What may be shown of a text: secrets masked, strangers' text made harmless."""

import unicodedata
from collections.abc import Iterable

MASK = "********"

# Control, format (bidi, zero-width, tag), surrogate, private and unassigned characters, and
# line and paragraph separators: none of them has a place in one line of plain text.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_DECEPTIVE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def one_line(text: str, limit: int = 200) -> str:
    """`text` as one line of at most `limit` printable characters, `…` where it was cut."""
    printable = "".join(" " if c.isspace() else c for c in text[: limit * 4] if _is_printable(c))
    line = " ".join(printable.split())
    if len(line) <= limit and len(text) <= limit * 4:
        return line
    return line[: limit - 1] + "…"


def quoted(text: str, limit: int = 200) -> str:
    """`text` as one line in double quotes, with quotes inside it made single."""
    return '"' + one_line(text, limit).replace('"', "'") + '"'


def masked(text: str, secrets: Iterable[str]) -> str:
    """`text` without any of `secrets`."""
    for secret in secrets:
        text = text.replace(secret, MASK) if secret else text
    return text


def _is_printable(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) not in _UNPRINTABLE


def is_deceptive(text: str, allowed: str = "") -> bool:
    """Whether `text` has a character that could make it read as something it is not.

    Such are control characters, lone surrogates, line separators, bidirectional overrides and
    tag characters; those in `allowed` are let pass.
    """
    return any(
        unicodedata.category(c) in _DECEPTIVE_CATEGORIES or c in _BIDIRECTIONAL or _is_tag(c)
        for c in text
        if c not in allowed
    )


def _is_tag(character: str) -> bool:
    return "\U000e0000" <= character <= "\U000e007f"
