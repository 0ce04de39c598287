"""Whether a log is still as it was written."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from calls_mcp.audit.inspection import Columns, Inspection, Row
from calls_mcp.audit.locking import locked
from calls_mcp.audit.report import Report
from calls_mcp.catalog import Json
from calls_mcp.errors import ConfigurationError

_COLUMNS: tuple[str, ...] = ("seq", "time", "tool", "sid", "prev", "hash")
_FIRST = "SELECT body, seq, time, tool, sid, prev, hash FROM audit ORDER BY seq LIMIT 500"
_NEXT = _FIRST.replace("ORDER", "WHERE seq > ? ORDER")

_Batch = list[tuple[bytes | float | None, ...]]


_SPELL, _PAUSE = 50, 0.0001  # records between two pauses, and seconds


def verify(path: Path, expect: str | None = None, *, is_aside: bool = False) -> Report:
    """Check a log, be it a file of JSON lines or an SQLite database; a server may be writing it.

    Found are records that were edited, removed, put in, moved or repeated, a torn line, and a
    change that lacks one of its two records. Not to be seen from the log alone is that whole
    records were cut off its end, or that somebody wrote it anew from some record on, hashes and
    all. So keep a `last_hash` somewhere else and give it as `expect`: a record must still have it,
    and then everything up to that record is as it was. With `is_aside`, other threads of this
    process get on as if nothing was going on.

    Raises:
        ConfigurationError: The log can't be read, or is none.
    """
    inspection = Inspection((expect or "").strip().lower())
    for number, row in enumerate(rows(path)):
        inspection.take(row)
        if is_aside and number % _SPELL == 0:
            time.sleep(_PAUSE)  # otherwise each would wait for the interpreter's 5 ms at every turn
    return inspection.report()


def rows(path: Path) -> Iterator[Row]:
    """All that is in a log, in its order.

    Raises:
        ConfigurationError: The log can't be read, or is none.
    """
    try:
        if is_database(path):
            yield from _rows(path)
        else:
            with path.open("rb") as file:
                yield from _lines(file)
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"The audit log {path} can't be read: {error}") from error


def is_database(path: Path) -> bool:
    """Whether a log is an SQLite database; otherwise it is a file of JSON lines.

    SQLite says so itself: to open the file and close it again would drop the locks that this
    process may have on it.
    """
    if not path.stat().st_size:
        return False
    with closing(opened(path)) as database:
        try:
            database.execute("PRAGMA schema_version")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                return False
            raise
    return True


def opened(path: Path) -> sqlite3.Connection:
    """A log that is a database, only for reading; texts come as bytes."""
    # Read-only it could not be opened after a crash, when SQLite must first undo half a record.
    uri = f"{path.resolve().as_uri()}?mode=rw"
    database = sqlite3.connect(uri, uri=True)
    database.execute("PRAGMA query_only = ON")
    database.text_factory = bytes  # so that text that is no UTF-8 is found, not tripped over
    return database


def _lines(file: BinaryIO) -> Iterator[Row]:
    """The lines that are there while no writer is midway."""
    with locked(file.fileno()):
        left = os.fstat(file.fileno()).st_size
    file.seek(0)
    number = 0
    while line := file.readline()[:left]:
        number += 1
        left -= len(line)
        yield Row(line, line=number)


def _rows(path: Path) -> Iterator[Row]:
    with closing(opened(path)) as database:
        batch: _Batch = database.execute(_FIRST).fetchall()
        while batch:  # by batches, since nobody can write while a query is under way
            for body, *values in batch:
                columns: Columns = dict(zip(_COLUMNS, map(_text, values), strict=True))
                yield Row(body if isinstance(body, bytes) else b"", columns=columns)
            batch = database.execute(_NEXT, (batch[-1][1],)).fetchall()


def _text(value: bytes | float | None) -> Json:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
