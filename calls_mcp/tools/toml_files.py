"""Read the operator's TOML files. Errors contain all faults and their lines."""

import re
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from calls_mcp.errors import FileError

_Checked = TypeVar("_Checked")
Table = dict[str, Any]
Place = tuple[str | int, ...]
"""The path of a key: names of sections and keys, and the index of an item in an array."""

_KEY = r"(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')"
_KEYS = rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*"
_HEADER = re.compile(rf"\s*\[{{1,2}}{_KEYS}\]")
_ASSIGNMENT = re.compile(rf"{_KEYS}=")
_STRING = "must be a string, in quotation marks"
_ARRAY = "must be an array, in brackets"
_TIME = "must be a time with a time zone, such as 2027-01-31T00:00:00Z"
_REASONS = {
    "missing": "is missing",
    "extra_forbidden": "unknown key",
    "unexpected_keyword_argument": "unknown key",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": _STRING,
    "path_type": _STRING,
    "tuple_type": _ARRAY,
    "frozen_set_type": _ARRAY,
    "too_short": "must not be empty",
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
    "timezone_aware": _TIME,
    "dict_type": "must be a section",
    "dataclass_type": "must be a section",
    "model_type": "must be a section",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
}
_QUOTE = "the quotation mark at the end of the text is missing"
_BRACKET = "a bracket is missing at the end"
_NOT_TOML = (
    ("Invalid value", "this value is not valid; text must be in quotation marks"),
    ("Invalid statement", "this is neither a [section] nor a key = value"),
    ("Illegal character '\\n'", _QUOTE),
    ("Found invalid character '\\n'", _QUOTE),
    ("Expected \"'", _QUOTE),
    ("Unterminated string", _QUOTE),
    ("Expected ']'", _BRACKET),
    ("Unclosed", _BRACKET),
    ("Expected '='", '"=" is missing after the key'),
    ("Expected newline", "remove what is after the value"),
    ("Invalid initial", "a key has only letters, digits, hyphens and underscores"),
    ("Unescaped", "write a backslash as two, or use single quotation marks"),
    ("Invalid hex", "invalid escape sequence"),
    ("Escaped character", "invalid escape sequence"),
    ("Duplicate", "this key or section appears twice"),
    ("Cannot", "this key or section appears twice"),  # overwrite, declare or redefine it
)
_CONTROL = re.compile(r"(?:Illegal|Found invalid) character '\\x([0-9a-f]{2})'")


def read(file: Path) -> str:
    """Return the text of `file`.

    Raises:
        FileError: It can't be read, or is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as unreadable:
        raise FileError([f"{file}: can't be read: {unreadable.strerror}"]) from unreadable
    except UnicodeDecodeError as wrong:
        line = wrong.object.count(b"\n", 0, wrong.start) + 1
        raise FileError([f"{file}:{line}: is not UTF-8"]) from None


def parse(file: Path, text: str) -> Table:
    """Return the table in `text`, the content of `file`.

    Raises:
        FileError: It is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        problem, _, place = str(wrong).rpartition(" (at ")
        told = re.match(r"line ([0-9]+)", place)
        line = told[1] if told else text.count("\n") + 1  # otherwise "end of document"
        words = next((words for start, words in _NOT_TOML if problem.startswith(start)), problem)
        if control := _CONTROL.match(problem):
            words = f"remove the control character U+00{control[1].upper()}"
        raise FileError([f"{file}:{line}: {words}"]) from None


def checked(
    file: Path,
    text: str,
    adapter: TypeAdapter[_Checked],
    table: Table,
    words: Callable[[ErrorDetails], str],
) -> _Checked:
    """Return `table` validated; `text` is the content of `file`, and `words` describes an error.

    Raises:
        FileError: Has all faults, each with its line.
    """
    try:
        return adapter.validate_python(table)
    except ValidationError as invalid:
        lines, errors = places(text), invalid.errors(include_url=False)
        wrong = sorted((nearest(lines, error["loc"]), words(error)) for error in errors)
        raise FileError(f"{file}:{line}: {problem}" for line, problem in wrong) from None


def must_match(pattern: str, expected: str) -> AfterValidator:
    """Return a validator of texts that match `pattern`; `expected` completes "must be …"."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {expected}")
        return text

    return AfterValidator(check)


def reason(error: ErrorDetails) -> str:
    """Return what is wrong with a key, as the end of a sentence."""
    if words := _REASONS.get(error["type"]):
        return words.format_map(error.get("ctx", {})).replace("'", '"')
    return error["msg"].removeprefix("Value error, ").removeprefix("Input ")


def places(text: str) -> dict[Place, int]:
    """Return the first line of each section and key."""
    lines: dict[Place, int] = {}
    section: Place = ()
    items = Counter[Place]()
    for number, line in enumerate(text.split("\n"), 1):
        place: Place = ()
        if header := _HEADER.match(line):
            place = section = _names(header[1])
            if line.lstrip().startswith("[["):
                section = (*place, items[place])
                items[place] += 1
                place = section
        elif assignment := _ASSIGNMENT.match(line):
            place = (*section, *_names(assignment[1]))
        for end in range(1, len(place) + 1):
            lines.setdefault(place[:end], number)
    return lines


def nearest(lines: dict[Place, int], place: Place) -> int:
    """Return the line of `place`, or of the nearest enclosing section."""
    return next((lines[p] for n in range(len(place), 0, -1) if (p := place[:n]) in lines), 1)


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(name.strip("\"'") for name in re.findall(_KEY, dotted))
