"""What may be shown of a text: secrets masked, strangers' text made harmless."""

import json
import re
import unicodedata
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from itertools import product, takewhile
from urllib.parse import quote, quote_plus

MASK = "********"

# Control, format (bidi, zero-width, tag), surrogate, private and unassigned characters, and
# line and paragraph separators: none of them has a place in one line of plain text.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
MIN_SECRET_LENGTH = 6  # characters of a secret that is in no text by chance
_TELLING = 12  # characters of a long secret
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # Hangul fillers, an empty Braille cell
_JOINERS = frozenset("\u200c\u200d")  # without which Persian, Hindi and emoji can't be written


def one_line(text: str, limit: int = 200) -> str:
    """`text` as one line of at most `limit` printable characters, `…` where it was cut."""
    if len(text) <= limit and _is_plain(text):
        return " ".join(text.split()) if " " in text else text
    printable = "".join(" " if c.isspace() else c for c in text[: limit * 4] if _is_printable(c))
    line = " ".join(printable.split())
    if len(line) <= limit and len(text) <= limit * 4:
        return line
    return line[: limit - 1] + "…"


def escape_invisible(text: str) -> str:
    """`text` with each character in it that can't be seen as `⟨U+202E⟩`, but for line feeds."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if c != "\n" and _is_unseen(c) else c for c in text)


def quoted(text: str, limit: int = 200) -> str:
    """`text` as one line in double quotes, with quotes inside it made single."""
    return '"' + one_line(text, limit).replace('"', "'") + '"'


def secret_forms(secret: str) -> Iterator[str]:
    """The forms in which a secret may turn up where it was sent.

    Of a short secret, what it is encoded to may be in any text by chance, and is left out.
    """
    raw = secret.encode(errors="surrogatepass")
    yield from (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])
    yield from (quote(raw), quote(raw, safe=""), quote_plus(raw))
    encoded = (raw.hex(), raw.hex().upper(), *base64_forms(raw))
    yield from (form for form in encoded if len(form) >= MIN_SECRET_LENGTH)


def base64_forms(raw: bytes) -> Iterator[str]:
    """What is the same of it wherever it stands in a text that was encoded."""
    for before, encode in product(range(3), (b64encode, urlsafe_b64encode)):
        text = encode(bytes(before) + raw).decode().rstrip("=")
        is_whole = (before + len(raw)) % 3 == 0
        yield text[(0, 2, 3)[before] : None if is_whole else -1]


def masked(text: str, secrets: Iterable[str]) -> str:
    """`text` without any of `secrets`, nor a beginning of one that would help to guess the rest.

    A short one is masked where it stands alone, and not inside of other words.
    """
    for secret in sorted({*secrets} - {""}, key=len, reverse=True):
        text = (
            _without(text, secret)
            if len(secret) >= MIN_SECRET_LENGTH
            else _without_word(text, secret)
        )
    return text


def _without_word(text: str, secret: str) -> str:
    return re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", MASK, text)


def _without(text: str, secret: str) -> str:
    telling = secret[:_TELLING]
    kept, found, rest = text.partition(telling)
    if not found:
        return text
    pairs = zip(rest, secret[len(telling) :], strict=False)
    more = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return f"{kept}{MASK}{_without(rest[more:], secret)}"


def _is_plain(text: str) -> bool:
    """Whether it is visible ASCII and spaces, as almost every text is: that is told at once."""
    return text.isascii() and text.isprintable()


def _is_unseen(character: str) -> bool:
    return character in _BLANK or unicodedata.category(character) in _UNPRINTABLE


def _is_printable(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) not in _UNPRINTABLE


def first_invisible(text: str, allowed: str = "") -> str:
    """The first character of `text` that could make it read as something it is not, or nothing.

    Such are control and format characters, lone surrogates, private and unassigned ones, line
    separators, and letters that are blank. Joiners, and those in `allowed`, are let pass.
    """
    if _is_plain(text):
        return ""
    passed = _JOINERS.union(allowed)
    unseen = (c for c in text if _is_unseen(c) and c not in passed)
    return next(unseen, "")
