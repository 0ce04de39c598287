"""What the bytes of a record tell before it is parsed, which takes several times as long.

Whatever is said here errs on the side of a record: only what it surely is not is ruled out, given
that its line is in the form it was written in.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from calls_mcp.audit.chain import encode
from calls_mcp.catalog import Json

Glimpse = Callable[[bytes], bool]
"""Whether a line may be a record that is looked for."""

_BEGINNING, _HASH, _END = b'{"seq":', b',"hash":"', b'"}'
_LENGTH = len(_HASH) + 64 + len(_END)
_TIME = re.compile(rb'\{"seq":[0-9]+,"time":"([0-9TZ:.-]*)"')
_PLAIN = re.compile("[\0-\x7f]+")
_CASED = range(0x80, 0x20000)  # no letter beyond has a case
# Escapes of plain characters, and of the others that are plain ones without their case, such as ß.
_UNLIKE = re.compile(
    rb"\\(?:/|u(?:00[0-7]|00df|0130|0149|017f|01f0|1e9[6-9ae]|212a|fb0[0-6]))", re.IGNORECASE
)


def is_whole(line: bytes) -> bool:
    """Whether it begins and ends as a record does; of a torn line nothing can be ruled out."""
    return (
        line.startswith(_BEGINNING)
        and line.endswith(_END)
        and line.startswith(_HASH, len(line) - _LENGTH)
    )


def bears(name: str, value: Json) -> bytes:
    """What is somewhere in the line of a record that has this field."""
    return encode({name: value})[1:-1].encode()


def time_in(line: bytes) -> str | None:
    """The time of a record, if that can be told."""
    found = _TIME.match(line)
    return found[1].decode() if found else None


def mentions(text: str) -> Glimpse:
    """Tells whether `text` may be in a record, whatever its case."""
    sought = text.casefold()
    plain: list[str] = _PLAIN.findall(sought)
    if plain:
        needles = [_escaped(max(plain, key=len))]
    else:
        first = sought[0]
        needles = [_escaped(each) for each in (first, *_others().get(first, ()))]

    def may_mention(line: bytes) -> bool:
        lower = line.lower()
        if any(needle in lower for needle in needles):
            return True
        return not lower.isascii() or (b"\\" in lower and _UNLIKE.search(lower) is not None)

    return may_mention


@cache
def _others() -> Mapping[str, Sequence[str]]:
    """The letters that any character stands for when case does not matter."""
    found: dict[str, list[str]] = {}
    for letter in map(chr, _CASED):
        for each in {*letter.casefold()} - {letter}:
            found.setdefault(each, []).append(letter)
    return found


def _escaped(text: str) -> bytes:
    """As it is in a line, in lower case."""
    return json.dumps(text)[1:-1].lower().encode()
