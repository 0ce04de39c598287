"""A policy file → `Policy`, or every fault of it with its line."""

import re
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from calls_mcp.datafiles import CONFIG
from calls_mcp.errors import ConfigurationError
from calls_mcp.policy.rules import Policy

Table = dict[str, Any]
Place = tuple[str, ...]
"""Where a key is: its sections' names and its own."""

_SHIPPED = CONFIG / "policy.toml"
_KEY = r"(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')"
_KEYS = rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*"
_HEADER = re.compile(rf"\s*\[{{1,2}}{_KEYS}\]")
_ASSIGNMENT = re.compile(rf"{_KEYS}=")


class PolicyError(ConfigurationError):
    """A policy file is wrong; `problems` name every fault by file and line."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def load_policy(file: Path | None = None) -> Policy:
    """The policy in `file`, and in the shipped one whatever `file` leaves out.

    Raises:
        PolicyError: Naming everything that is wrong with the file.
    """
    file = file or _SHIPPED
    text = _read(file)
    given = _parse(file, text)
    try:
        return _adapter().validate_python(_overlaid(_parse(_SHIPPED, _read(_SHIPPED)), given))
    except ValidationError as invalid:
        lines = _lines(text)
        wrong = sorted(_problem(error, lines) for error in invalid.errors())
        raise PolicyError(f"{file}:{line}: {problem}" for line, problem in wrong) from None


@cache
def _adapter() -> TypeAdapter[Policy]:
    return TypeAdapter(Policy)


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as unreadable:
        raise PolicyError([f"{file}: can't be read: {unreadable.strerror}"]) from unreadable
    except UnicodeDecodeError as wrong:
        line = wrong.object.count(b"\n", 0, wrong.start) + 1
        raise PolicyError([f"{file}:{line}: is not UTF-8"]) from None


def _parse(file: Path, text: str) -> Table:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        told = re.search(r"at line ([0-9]+)", str(wrong))
        line = told[1] if told else text.count("\n") + 1  # the other place is "at end of document"
        raise PolicyError([f"{file}:{line}: {wrong}"]) from None


def _overlaid(base: Table, given: Table) -> Table:
    """`base` with the keys of `given` in place of its own, section by section."""
    both = {name for name in given if isinstance(given[name], dict) and name in base}
    return base | given | {name: _overlaid(base[name], given[name]) for name in both}


def _lines(text: str) -> dict[Place, int]:
    """The first line of each section and key."""
    lines: dict[Place, int] = {}
    section: Place = ()
    for number, line in enumerate(text.split("\n"), 1):
        place: Place = ()
        if header := _HEADER.match(line):
            place = section = _names(header[1])
        elif assignment := _ASSIGNMENT.match(line):
            place = (*section, *_names(assignment[1]))
        for end in range(1, len(place) + 1):
            lines.setdefault(place[:end], number)
    return lines


def _names(dotted: str) -> Place:
    return tuple(name.strip("\"'") for name in re.findall(_KEY, dotted))


def _problem(error: ErrorDetails, lines: dict[Place, int]) -> tuple[int, str]:
    place = tuple(str(part) for part in error["loc"] if isinstance(part, str))
    nearest = (place[:end] for end in range(len(place), 0, -1))
    line = next((lines[known] for known in nearest if known in lines), 1)
    return line, _words(error, ".".join(place))


def _words(error: ErrorDetails, key: str) -> str:
    if error["type"] == "unexpected_keyword_argument":
        return _unknown(key, is_section=isinstance(error["input"], dict))
    if error["type"] == "dataclass_type":
        return f"{key} should be a section"
    items = "".join(f"[{part}]" for part in error["loc"] if isinstance(part, int))
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}{items} {reason.replace('a valid tuple', 'an array')}"


def _unknown(key: str, *, is_section: bool) -> str:
    known = [".".join(place) for place in _lines(_read(_SHIPPED))]
    meant = get_close_matches(key, known, n=1)
    what = f"section [{key}]" if is_section else f"key {key}"
    return f"unknown {what}" + (f"; did you mean {meant[0]}?" if meant else "")
