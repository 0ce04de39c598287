"""Mask secrets, and make text from outside safe to show."""

import json
import re
import unicodedata
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from itertools import pairwise, product, takewhile
from urllib.parse import quote, quote_plus

MASK = "********"

# Control, format (bidi, zero-width, tag), surrogate, private and unassigned characters, and
# line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
MIN_SECRET_LENGTH = 6  # characters; any text may contain a shorter secret by chance
_PREFIX = 12  # characters of a long secret that are enough to recognize it
_BLANK = frozenset(
    # Hangul, Khmer and grapheme fillers, an empty Braille cell, Mongolian selectors
    "\u115f\u1160\u3164\uffa0\u17b4\u17b5\u034f\u2800\u180b\u180c\u180d\u180e\u180f"
).union(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))  # variation selectors
_JOINERS = frozenset("\u200c\u200d")  # Persian, Hindi and emoji need these
_STYLES = frozenset("\ufe0e\ufe0f")  # whether a character is shown as text or as an emoji


def one_line(text: str, limit: int = 200) -> str:
    """Return `text` as one line of at most `limit` printable characters, `…` where it was cut."""
    if len(text) <= limit and _is_plain(text):
        return " ".join(text.split()) if " " in text else text
    printable = "".join(" " if c.isspace() else c for c in text[: limit * 4] if _is_printable(c))
    line = " ".join(printable.split())
    if len(line) <= limit and len(text) <= limit * 4:
        return line
    return line[: limit - 1] + "…"


def escape_invisible(text: str) -> str:
    """Return `text` with each invisible character except line feeds written as `⟨U+202E⟩`."""
    if _is_plain(text):
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if c != "\n" and _is_invisible(c) else c for c in text)


def quoted(text: str, limit: int = 200) -> str:
    """Return `text` as one line in double quotes; double quotes in it become single ones."""
    return '"' + one_line(text, limit).replace('"', "'") + '"'


def secret_forms(secret: str) -> Iterator[str]:
    """Yield the forms in which a response may contain a secret.

    The encoded forms of a short secret are left out, because any text may contain them by chance.
    """
    raw = secret.encode(errors="surrogatepass")
    yield from (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])
    yield from (quote(raw), quote(raw, safe=""), quote_plus(raw))
    encoded = (raw.hex(), raw.hex().upper(), *base64_forms(raw))
    yield from (form for form in encoded if len(form) >= MIN_SECRET_LENGTH)


def base64_forms(raw: bytes) -> Iterator[str]:
    """Yield the parts of the base64 of `raw` that don't depend on the bytes around it."""
    for before, encode in product(range(3), (b64encode, urlsafe_b64encode)):
        text = encode(bytes(before) + raw).decode().rstrip("=")
        is_whole = (before + len(raw)) % 3 == 0
        yield text[(0, 2, 3)[before] : None if is_whole else -1]


def masked(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with all `secrets`, and long prefixes of them, masked.

    A short secret is masked only where it is a whole word.
    """
    for secret in sorted({*secrets} - {""}, key=len, reverse=True):
        mask = _without if len(secret) >= MIN_SECRET_LENGTH else _without_word
        text = mask(text, secret)
    return text


def _without_word(text: str, secret: str) -> str:
    return re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", MASK, text)


def _without(text: str, secret: str) -> str:
    prefix, tail = secret[:_PREFIX], secret[_PREFIX:]
    parts: list[str] = []
    end = 0
    while (start := text.find(prefix, end)) >= 0:
        parts.append(text[end:start])
        end = start + len(prefix)
        end += _common_length(text[end : end + len(tail)], tail)
    return MASK.join([*parts, text[end:]])


def _common_length(text: str, other: str) -> int:
    """Return how many characters two texts begin with in common."""
    pairs = zip(text, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_plain(text: str) -> bool:
    """Return whether `text` has only visible ASCII and spaces. This is fast and mostly true."""
    return text.isascii() and text.isprintable()


def _is_invisible(character: str) -> bool:
    return character in _BLANK or unicodedata.category(character) in _UNPRINTABLE


def _is_printable(character: str) -> bool:
    return character.isspace() or not _is_invisible(character)


def first_invisible(text: str, allowed: str = "") -> str:
    """Return the first character of `text` that could make it look like another text, or "".

    These are control and format characters, lone surrogates, private and unassigned characters,
    line separators, variation selectors and blank letters, except those in `allowed`. Emoji and
    some scripts need a joiner or an emoji style after a visible character. Only one of each is
    accepted there, because a longer row could hide a text.
    """
    if _is_plain(text):
        return ""
    for before, character in pairwise(["\n", *text]):
        if _is_invisible(character) and character not in allowed:
            is_joiner = character in _JOINERS and before in _STYLES
            can_follow = character in _JOINERS | _STYLES and not _is_invisible(before)
            if not (is_joiner or can_follow):
                return character
    return ""
