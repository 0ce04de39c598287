"""The log as an SQLite database, which several processes may write."""

import os
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from calls_mcp.audit.chain import START, Link, Sealed, seal
from calls_mcp.audit.locking import PATIENCE, patiently
from calls_mcp.catalog import Json
from calls_mcp.replacing import require_place

# The triggers stop an accident, not an intruder: for those there is the chain.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS audit (
  seq INTEGER PRIMARY KEY,
  time TEXT NOT NULL,
  tool TEXT,
  sid TEXT,
  prev TEXT NOT NULL,
  hash TEXT NOT NULL,
  body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS audit_time ON audit (time);
CREATE INDEX IF NOT EXISTS audit_tool ON audit (tool);
CREATE INDEX IF NOT EXISTS audit_sid ON audit (sid);
CREATE TRIGGER IF NOT EXISTS audit_keeps BEFORE DELETE ON audit
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER IF NOT EXISTS audit_stays BEFORE UPDATE ON audit
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
COMMIT;
"""
_LAST = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1"
_INSERT = "INSERT INTO audit (seq, time, tool, sid, prev, hash, body) VALUES (?, ?, ?, ?, ?, ?, ?)"

_Identity = tuple[int, int]


class Database:
    """A `Sink`. Its connection is opened at the first record, and anew if the file was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: tuple[_Identity, sqlite3.Connection] | None = None

    def append(self, fields: Mapping[str, Json], patience: float = PATIENCE) -> None:
        """Insert a record behind the last one, and see it onto the disk."""
        connection = self._connection(patience)
        with _transaction(connection, patience):
            sealed = seal(fields, _last(connection))
            connection.execute(_INSERT, _row(sealed))

    def require_writable(self, patience: float = PATIENCE) -> None:
        """Return if a record could be inserted now; none is, and no file is made.

        Raises:
            OSError: It could not.
            sqlite3.Error: Likewise.
        """
        require_place(self._path)
        if not self._path.exists():
            return
        with closing(
            sqlite3.connect(self._path, timeout=patience, isolation_level=None)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _connection(self, patience: float) -> sqlite3.Connection:
        identity = _identity(self._path)
        if self._open is not None and self._open[0] == identity:
            return self._open[1]
        self.close()
        connection = sqlite3.connect(
            self._path, timeout=patience, isolation_level=None, check_same_thread=False
        )
        try:
            connection.executescript(_SCHEMA)
            connection.execute("PRAGMA busy_timeout = 0")  # its steps would let writers starve
        except sqlite3.Error:
            connection.close()
            raise
        self._open = identity, connection
        return connection


def _identity(path: Path) -> _Identity:
    """Which file `path` is now; it is made if there is none, for the owner alone to read.

    An existing one is not opened here: closing it again would drop SQLite's own locks on it.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        found = path.stat()
    return found.st_dev, found.st_ino


@contextmanager
def _transaction(connection: sqlite3.Connection, patience: float) -> Generator[None]:
    patiently(lambda: _is_executed(connection, "BEGIN IMMEDIATE"), patience)
    try:
        yield
        patiently(lambda: _is_executed(connection, "COMMIT"), patience)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _is_executed(connection: sqlite3.Connection, statement: str) -> bool:
    try:
        connection.execute(statement)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            return False
        raise
    return True


def _last(connection: sqlite3.Connection) -> Link:
    row: tuple[int, str] | None = connection.execute(_LAST).fetchone()
    return START if row is None else Link(row[0], str(row[1]))


def _row(sealed: Sealed) -> tuple[object, ...]:
    names = ("seq", "time", "tool", "sid", "prev", "hash")
    return (*(sealed.fields.get(name) for name in names), sealed.line)
