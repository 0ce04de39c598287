"""Files of phone numbers and prefixes, such as a do-not-call list, and look-ups in them."""

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from os import stat_result
from pathlib import Path

from calls_mcp.errors import FileError

_BOM = b"\xef\xbb\xbf"
_IGNORED = b" \t\r-()./"
_TRUNK = b"(0)"  # as in +44 (0)20: not dialed with a country code
_NUMBER = re.compile(rb"\+[1-9][0-9]{6,14}").fullmatch
_PREFIX = re.compile(rb"\+[1-9][0-9]{0,14}\*").fullmatch
_MOST_FAULTS = 20

_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class NumberList:
    """Sorted numbers and prefixes, each as an integer of its digits: 8 bytes each."""

    numbers: "array[int]"
    prefixes: "array[int]"

    def has(self, number: str) -> bool:
        """Return whether a number (+ and digits) is in the list."""
        return _is_in(self.numbers, int(number))

    def has_prefix(self, number: str) -> bool:
        """Return whether a number begins with a prefix of the list."""
        return any(_is_in(self.prefixes, int(number[:end])) for end in range(2, len(number) + 1))


_loaded: dict[Path, tuple[_Stamp, NumberList]] = {}


def load_numbers(file: Path) -> NumberList:
    """Return the list in a file. It is read again if the file has changed.

    Raises:
        FileError: It can't be read, or has malformed lines.
    """
    known = _loaded.get(file)
    try:
        stamp = _stamp(file.stat())
        if known is None or known[0] != stamp:
            known = _loaded[file] = stamp, _parse(file, file.read_bytes())
    except OSError as unreadable:
        raise FileError([f"{file}: can't be read: {unreadable.strerror}"]) from unreadable
    return known[1]


def _stamp(status: stat_result) -> _Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _parse(file: Path, data: bytes) -> NumberList:
    numbers, prefixes, wrong = array("Q"), array("Q"), list[int]()
    plain = data.removeprefix(_BOM).replace(_TRUNK, b"").translate(None, _IGNORED)
    for line, text in enumerate(plain.split(b"\n"), 1):
        if _NUMBER(text):  # most lines
            numbers.append(int(text))
            continue
        entry = text.partition(b"#")[0]
        if _NUMBER(entry):
            numbers.append(int(entry))
        elif _PREFIX(entry):
            prefixes.append(int(entry[:-1]))
        elif entry:
            wrong.append(line)
    if wrong:
        raise FileError(_faults(file, wrong))
    return NumberList(array("Q", sorted(numbers)), array("Q", sorted(prefixes)))


def _faults(file: Path, wrong: list[int]) -> Iterable[str]:
    expected = "must be a number with + and country code, or a prefix such as +4930*"
    yield from (f"{file}:{line}: {expected}" for line in islice(wrong, _MOST_FAULTS))
    if len(wrong) > _MOST_FAULTS:
        yield f"{file}: malformed lines after these: {len(wrong) - _MOST_FAULTS}"


def _is_in(numbers: "array[int]", number: int) -> bool:
    place = bisect_left(numbers, number)
    return place < len(numbers) and numbers[place] == number
