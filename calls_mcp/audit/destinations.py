"""Where records go: a table of an SQLite database, or stderr."""

import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from calls_mcp.audit.chain import START, Link, seal
from calls_mcp.observability import stderr
from calls_mcp.settings import Settings
from calls_mcp.storage.atomic_files import require_place
from calls_mcp.storage.database import Database, database_path, default_path, require_ours
from calls_mcp.tools.catalog import Json

FAILURES = (OSError, ValueError, sqlite3.Error)
"""What `append` raises if it can't write; ValueError is what a closed stream raises."""

_LAST = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1"
_INSERT = "INSERT INTO audit (seq, time, tool, sid, prev, hash, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
_COLUMNS = ("seq", "time", "tool", "sid", "prev", "hash")


class Destination(Protocol):
    """Where records go: `where`, for the operator. It is used by one thread at a time."""

    where: str

    def append(self, fields: Mapping[str, Json], until: float) -> None:
        """Write a record, chained to the last one; wait no longer than `until` (monotonic clock).

        Raises:
            OSError: It could not be written.
            ValueError: Likewise.
            sqlite3.Error: Likewise.
        """
        ...

    def require_ready(self, until: float) -> None:
        """Return if a record could be written now; raise and wait as `append` does."""
        ...

    def close(self) -> None:
        """Release what is held open."""
        ...


class AuditTable:
    """The table `audit` of a database, which several processes may write."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.where = str(database.path)

    def append(self, fields: Mapping[str, Json], until: float) -> None:
        """Insert a record after the last one."""
        self._database.write(partial(_insert, fields), until)

    def require_ready(self, until: float) -> None:
        """Return if a record could be inserted now. A file that isn't there is not created."""
        self._database.require_writable(until)

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class AuditStream:
    """JSON lines on stderr, in a chain that starts again with each process."""

    where = "stderr:"

    def __init__(self) -> None:
        self._last = START

    def append(self, fields: Mapping[str, Json], until: float) -> None:
        """Write a record as one line. Perhaps nobody reads stderr."""
        stderr.run_in_writer(partial(self._write, fields), until - time.monotonic())

    def require_ready(self, until: float) -> None:
        """Return: only writing tells whether stderr is read."""

    def close(self) -> None:
        """Leave stderr open."""

    def _write(self, fields: Mapping[str, Json]) -> None:
        sealed = seal(fields, self._last)
        stderr.write(sealed.line + "\n")
        self._last = sealed.link


def audit_path(settings: Settings, *, sandbox: bool = False) -> Path | None:
    """Return the database that has the audit log, or None if records go to stderr.

    Unless a setting says otherwise, it is the one that has the state. Where that is in Redis, it is
    this user's own database. Where it is in memory, nothing is to be written to a disk.
    """
    if chosen := settings.audit.database:
        return chosen if isinstance(chosen, Path) else None
    if settings.storage.is_memory:
        return None
    return database_path(settings.storage.location, sandbox=sandbox) or default_path(
        sandbox=sandbox
    )


def obstacle(path: Path, patience: float) -> Exception | None:
    """Return why nothing could be recorded in the database at `path` now, if so.

    Nothing is written. `patience` is how long, in seconds, to wait for other processes.
    """
    try:
        if not path.exists():
            Database(path).require_writable()
        else:
            require_place(path)
            with closing(sqlite3.connect(path, timeout=patience, isolation_level=None)) as database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
                require_ours(database)
    except FAILURES as error:
        return error
    return None


def reason_of(error: Exception) -> str:
    """Return why a record could not be written, in words that name no path."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error)


def _insert(fields: Mapping[str, Json], database: sqlite3.Connection) -> None:
    last = cast("tuple[int, str] | None", database.execute(_LAST).fetchone())
    sealed = seal(fields, START if last is None else Link(*last))
    columns = (sealed.fields.get(name) for name in _COLUMNS)
    database.execute(_INSERT, (*columns, sealed.line))
