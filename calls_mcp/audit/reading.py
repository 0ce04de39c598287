"""The record from its end: as much of it as is looked at, and not the whole."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from calls_mcp.audit.chain import Fields, is_sound, parse
from calls_mcp.audit.glimpse import Glimpse, is_whole
from calls_mcp.audit.locking import locked
from calls_mcp.audit.verify import is_database, opened
from calls_mcp.errors import ConfigurationError

_BLOCK = 65_536  # bytes
_BEFORE = "SELECT seq, body FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT 200"
_AFTER_ALL = 2**62


@dataclass(frozen=True, slots=True)
class Found:
    """A record as it was found: its line, and its place.

    `place` is good for `newest` of the same log; what can't be read has no fields.
    """

    line: bytes
    fields: Fields
    place: int

    @property
    def is_sound(self) -> bool:
        """Whether its line is as it was written."""
        return bool(self.fields) and is_sound(self.line, self.fields)


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for in a log: among what `may` be it by its bytes, what is `wanted`.

    What can't be read and may be it is always wanted. No more than `farthest` records are looked
    at, if there is such a bound.
    """

    may: Glimpse
    wanted: Callable[[Fields], bool] = lambda _: True
    farthest: int | None = None


def newest(path: Path, search: Search, before: int | None = None) -> Iterator[Found]:
    """Those of the records of a log that are looked for, the newest first.

    Those from before a `place`, if one is given.

    Raises:
        ConfigurationError: The log can't be read, or is none.
    """
    looked = islice(_searched(path, search, before), search.farthest)
    return (found for _, found in looked if found)


def page(
    path: Path, search: Search, most: int, before: int | None = None
) -> tuple[list[Found], int | None]:
    """At most `most` of the newest records that are looked for, and the place to go on before.

    Raises:
        ConfigurationError: The log can't be read, or is none.
    """
    found: list[Found] = []
    last = 0
    for number, (place, each) in enumerate(_searched(path, search, before)):
        if number == search.farthest:
            return found, last
        last = place
        if each and len(found) == most:
            return found, found[-1].place
        if each:
            found.append(each)
    return found, None


def _searched(path: Path, search: Search, before: int | None) -> Iterator[tuple[int, Found | None]]:
    """Every place, and what was found there if it is looked for."""
    may, wanted = search.may, search.wanted
    try:
        read = _rows if is_database(path) else _lines
        for place, line in read(path, before):
            if is_whole(line) and not may(line):
                yield place, None
                continue
            found = Found(line, parse(line) or {}, place)
            yield place, found if not found.fields or wanted(found.fields) else None
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"The audit log {path} can't be read: {error}") from error


def _lines(path: Path, before: int | None) -> Iterator[tuple[int, bytes]]:
    """Lines of a file, and where they begin."""
    with path.open("rb") as file:
        with locked(file.fileno()):
            size = os.fstat(file.fileno()).st_size
        position = size if before is None else min(size, before)
        tail = b""  # the end of the line that begins before `position`
        while position:
            start = max(0, position - _BLOCK)
            file.seek(start)
            block = file.read(position - start) + tail
            tail, *lines = block.split(b"\n")
            position, place = start, start + len(block)
            for line in reversed(lines):
                place -= len(line)
                if line:
                    yield place, line
                place -= 1  # the line feed before it
        if tail:
            yield 0, tail


def _rows(path: Path, before: int | None) -> Iterator[tuple[int, bytes]]:
    """Rows of a database by their numbers, in batches, since nobody can write during a query."""
    place = _AFTER_ALL if before is None else before
    with closing(opened(path)) as database:
        while batch := database.execute(_BEFORE, (place,)).fetchall():
            for place, body in batch:
                yield place, body if isinstance(body, bytes) else b""
