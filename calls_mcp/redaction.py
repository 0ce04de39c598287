"""What may be shown of a text: secrets masked, strangers' text made harmless."""

import re
import unicodedata
from base64 import b64encode
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

MASK = "********"

# Control, format (bidi, zero-width, tag), surrogate, private and unassigned characters, and
# line and paragraph separators: none of them has a place in one line of plain text.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_WORD = re.compile(r"[a-zA-Z_-]{0,24}")
_JOINERS = frozenset("\u200c\u200d")  # without which Persian, Hindi and emoji can't be written


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


def word(text: str) -> str:
    """What should be one of the API's own words; anything else is told as what was said."""
    return text if _WORD.fullmatch(text) else quoted(text, 32)


def spellings(secret: str) -> Iterator[str]:
    """The forms in which a secret may turn up where it was sent."""
    raw = secret.encode(errors="surrogatepass")
    yield from (secret, quote(raw, safe=""), quote_plus(raw), raw.hex())
    basic = b64encode(raw).decode()
    yield from (basic, basic.rstrip("="))


def masked(text: str, secrets: Iterable[str]) -> str:
    """`text` without any of `secrets`, which may be parts of each other."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _is_printable(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) not in _UNPRINTABLE


def first_invisible(text: str, allowed: str = "") -> str:
    """The first character of `text` that could make it read as something it is not, or nothing.

    Such are control and format characters, lone surrogates, private and unassigned ones, and line
    separators. Joiners, and those in `allowed`, are let pass.
    """
    passed = _JOINERS.union(allowed)
    unseen = (c for c in text if unicodedata.category(c) in _UNPRINTABLE and c not in passed)
    return next(unseen, "")
