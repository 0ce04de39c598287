"""One SQLite database: its file, its schema, and its transactions."""

import errno
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import TypeVar, cast

from platformdirs import user_state_path

_T = TypeVar("_T")

Parameters = Sequence[str | float] | Mapping[str, str | float]
Query = Callable[[str, Parameters], list[tuple[object, ...]]]
"""Returns the rows of a query with these parameters."""

SQLITE = "sqlite:///"
NEWER = "it was written by a newer version of calls-mcp"
_PAUSE = 0.001  # seconds; SQLite's own pauses grow, so some writers would starve
_FILES = ("", "-wal", "-shm", "-claims")  # how their names end
_AUDIT_COLUMNS = {"seq", "time", "tool", "sid", "prev", "hash", "body"}


class Database:
    """The database in the file at `path`, or in memory if that is None. Its methods block.

    Processes can share a file, and threads can share a `Database`. The file is opened at the first
    use, and created at the first write. This creates the user's state directory, but no other
    folder. If the file is replaced, the new one is used. `timeout` is how many seconds to wait for
    other threads and processes in total.
    """

    def __init__(self, path: Path | None, timeout: float = 5) -> None:
        self.path = path
        self._timeout = timeout
        self._connection: sqlite3.Connection | None = None
        self._file_id: tuple[int, int] | None = None
        self._lock = Lock()

    def deadline(self) -> float:
        """Return the end of a wait that begins now (monotonic clock)."""
        return time.monotonic() + self._timeout

    def write(self, work: Callable[[sqlite3.Connection], _T], deadline: float | None = None) -> _T:
        """Run `work` as one transaction and return its result.

        The transaction holds the write lock of all processes from its beginning. It waits for
        others until `deadline`, by default for `timeout` seconds.

        Raises:
            sqlite3.Error: The database can't be written to.
            OSError: Its file can't be created.
        """
        until = deadline or self.deadline()
        with self._connected(until) as connection, connection:
            _begin(connection, until)
            return work(connection)

    def view(self, work: Callable[[Query], _T], deadline: float | None = None) -> _T:
        """Call `work` with what runs its queries, and return its result. No file has no rows.

        It does not wait for the write lock. `deadline` is as for `write`.

        Raises:
            sqlite3.Error, OSError: The database can't be read.
        """
        if self.path is not None and not _has_content(self.path):
            return work(lambda _query, _parameters: [])
        until = deadline or self.deadline()
        with self._connected(until) as connection:
            return _retry_while_busy(lambda: work(querying(connection)), until)

    def read(
        self, query: str, parameters: Parameters = (), deadline: float | None = None
    ) -> list[tuple[object, ...]]:
        """Return the rows of one query, like `view`."""
        return self.view(lambda rows: rows(query, parameters), deadline)

    def require_writable(self, deadline: float | None = None) -> None:
        """Check whether the database could be written to now. A missing file is not created.

        Raises:
            sqlite3.Error, OSError: It could not.
        """
        if self.path is not None and not _has_content(self.path):
            require_place(_first_missing(self.path) if _is_default(self.path) else self.path)
        else:
            self.write(_version, deadline)

    def close(self) -> None:
        """Close the connection. The next use opens it again."""
        with self._lock:
            self._close()

    @contextmanager
    def _connected(self, until: float) -> Generator[sqlite3.Connection]:
        """Use the connection in this thread only; fail if it is not free by `until`."""
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise TimeoutError("it is busy")
        try:
            yield self._open(until)
        finally:
            self._lock.release()

    def _open(self, until: float) -> sqlite3.Connection:
        """Return the connection to the current file; create the file if it is missing."""
        file_id = _file_id(self.path) if self.path else None
        if self._connection is not None and file_id == self._file_id:
            return self._connection
        self._close()
        if self.path and _is_default(self.path):
            _make_private(self.path)
        connection = sqlite3.connect(
            self.path or ":memory:", timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, until)
        except BaseException:
            connection.close()
            raise
        self._connection, self._file_id = connection, file_id
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def querying(connection: sqlite3.Connection) -> Query:
    """Return a function that runs queries on a connection."""
    return lambda query, parameters: connection.execute(query, parameters).fetchall()


def default_path(*, sandbox: bool = False) -> Path:
    """Return the path of this user's database, which may not exist. The sandbox has its own.

    The path is relative if the user has no home directory.
    """
    folder = user_state_path("calls-mcp", appauthor=False)
    return folder / ("sandbox.db" if sandbox else "calls.db")


def database_path(url: str | None, *, sandbox: bool = False) -> Path | None:
    """Return the file of the store at `url`, by default this user's own; None if not a file."""
    if url is None:
        return default_path(sandbox=sandbox)
    return Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None


def require_ours(connection: sqlite3.Connection) -> None:
    """Check that a database is empty, or that this version can use it.

    Raises:
        sqlite3.DatabaseError: It is not. `is_unusable` returns true for this error.
    """
    version = _version(connection)
    if version > len(_migrations()):
        raise sqlite3.DatabaseError(NEWER)
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
    tables = _names(connection, query)
    if version:
        is_ours = "confirmations" in tables
    else:  # a new file, or one with only an audit log
        columns = _names(connection, "SELECT name FROM pragma_table_info('audit')")
        is_ours = tables <= {"audit"} and columns in (set[str](), _AUDIT_COLUMNS)
    if not is_ours:
        raise sqlite3.DatabaseError("it is another program's database")


def is_unusable(error: Exception) -> bool:
    """Return whether a file can't be used because of its content, not because of access to it."""
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.OperationalError
    )


# Transactions and the schema


def _begin(connection: sqlite3.Connection, until: float) -> None:
    _retry_while_busy(lambda: connection.execute("BEGIN IMMEDIATE"), until)


def _retry_while_busy(attempt: Callable[[], _T], until: float) -> _T:
    """Return what `attempt` returns; retry until `until` while others have locked the file."""
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() >= until:
                raise
        time.sleep(_PAUSE)


def _prepare(connection: sqlite3.Connection, until: float) -> None:
    """Bring the schema up to date."""
    _retry_while_busy(lambda: _check(connection), until)  # before anything is changed
    _retry_while_busy(lambda: connection.execute("PRAGMA journal_mode = WAL"), until)
    connection.execute("PRAGMA synchronous = FULL")  # to survive a power failure
    if _retry_while_busy(lambda: _version(connection), until) == len(_migrations()):
        return
    with connection:
        _begin(connection, until)
        _migrate(connection)


def _check(connection: sqlite3.Connection) -> None:
    with connection:
        connection.execute("BEGIN")  # another process may be migrating
        require_ours(connection)


def _migrate(connection: sqlite3.Connection) -> None:
    require_ours(connection)  # it may have changed since _check
    for script in _migrations()[_version(connection) :]:
        for statement in _statements(script):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(_migrations())}")


def _version(connection: sqlite3.Connection) -> int:
    """Return how many migrations were applied to a database."""
    return cast("tuple[int]", connection.execute("PRAGMA user_version").fetchone())[0]


@cache
def _migrations() -> Sequence[str]:
    """Return the scripts; each migrates a database to the next version."""
    folder = files("calls_mcp.storage") / "migrations"
    return [file.read_text("utf-8") for file in sorted(folder.iterdir(), key=lambda f: f.name)]


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script; `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _names(connection: sqlite3.Connection, query: str) -> set[str]:
    return {str(name) for (name,) in connection.execute(query)}


# The file


def require_place(file: Path) -> None:
    """Check that `file` can be written to or, if it is missing, created.

    Raises:
        OSError: It can't be.
    """
    place = file if file.exists() else file.parent
    if place != file and not place.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no directory {place}")
    if not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, f"{place} is not writable")


def _has_content(path: Path) -> bool:
    """Return whether there is a database to read."""
    try:
        return path.stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def _file_id(path: Path) -> tuple[int, int]:
    """Return the id of the file at `path`; if it is missing, create it, readable by the owner only.

    An existing file is not opened here, because closing it would drop the locks that SQLite has on
    it elsewhere in this process.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        if _is_default(path):
            _require_home(path)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        found = path.stat()
    return found.st_dev, found.st_ino


def _is_default(path: Path) -> bool:
    """Return whether a file is in this user's state directory."""
    return path.parent == default_path().parent


def _first_missing(path: Path) -> Path:
    """Return the first missing folder above `path`, or `path` itself."""
    _require_home(path)
    while not path.parent.exists():
        path = path.parent
    return path


def _require_home(path: Path) -> None:
    if not path.is_absolute():
        raise FileNotFoundError("this user has no home directory")


def _make_private(path: Path) -> None:
    """Remove other users' permissions that an earlier version or a copy may have set."""
    if sys.platform == "win32":
        return
    for each in (path.parent, *(path.with_name(path.name + end) for end in _FILES)):
        with suppress(OSError):
            found = each.stat()
            if found.st_uid == os.getuid() and found.st_mode & 0o077:
                each.chmod(found.st_mode & 0o700)
