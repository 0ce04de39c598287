"""One SQLite database: its file, its schema, and its transactions."""

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import TypeVar, cast

from anyio import CapacityLimiter, to_thread

from calls_mcp.errors import StoreUnavailable
from calls_mcp.storage.atomic_files import require_place
from calls_mcp.storage.location import default_path
from calls_mcp.storage.unavailable import reaching

_T = TypeVar("_T")

_PAUSE = 0.001  # seconds; SQLite's own pauses grow, so that some writers would starve
NEWER = "it was written by a newer version of calls-mcp"
_FAILURES = (sqlite3.Error, OSError)
_AUDIT = {"seq", "time", "tool", "sid", "prev", "hash", "body"}


class Database:
    """The database in the file at `path`, or one in memory if that is None.

    Several processes can share a file. It is created at the first write, and opened at the first
    use; this user's state directory is created, too, but no other folder. If another file takes its
    place, that one is used from then on. `busy` is how many seconds to wait for other writers, here
    or elsewhere, in all.
    """

    def __init__(self, path: Path | None, busy: float = 5) -> None:
        self.path = path
        self._busy = busy
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._queue = CapacityLimiter(1)
        # A cancelled task leaves the queue at once, but its thread goes on until its work is done.
        self._in_use = Lock()
        self._reader: Database | None = None
        self._readers = CapacityLimiter(1)

    @property
    def where(self) -> str:
        """Where it is, for the operator."""
        return str(self.path or "memory:")

    async def run(
        self,
        work: Callable[[sqlite3.Connection], _T],
        meaning: type[StoreUnavailable] = StoreUnavailable,
    ) -> _T:
        """Return what `work` returns, run in a thread as one transaction.

        The transaction holds the write lock from its beginning, against every process.

        Raises:
            StoreUnavailable: The database can't be written. `meaning` selects the subclass.
        """
        with reaching(self.where, _FAILURES, meaning):
            return await self._in_thread(partial(self.write, work, self._until()))

    async def look(self, query: str, *parameters: str | float) -> tuple[object, ...] | None:
        """Return the first row of `query`, which changes nothing and waits for no writer."""
        return next(iter(await self.look_at_all(query, *parameters)), None)

    async def look_at_all(
        self, query: str, *parameters: str | float
    ) -> Sequence[tuple[object, ...]]:
        """Return the rows of `query`, which changes nothing and waits for no writer.

        There are none while the file does not exist.

        Raises:
            StoreUnavailable: The database can't be read.
        """
        look = partial(self._looking().read, query, parameters, self._until())
        with reaching(self.where, _FAILURES, StoreUnavailable):
            return await self._in_thread(look, self._readers)

    async def check(self) -> None:
        """Return if the database could be written to now. A file that isn't there is not created.

        Raises:
            StoreUnavailable: It could not.
        """
        with reaching(self.where, _FAILURES, StoreUnavailable):
            await self._in_thread(partial(self.require_writable, self._until()))

    async def aclose(self) -> None:
        """Close the connections."""
        await to_thread.run_sync(self.close, limiter=self._queue)

    def write(self, work: Callable[[sqlite3.Connection], _T], until: float | None = None) -> _T:
        """Return what `work` returns, run here as one transaction.

        It waits for others no longer than `until`, by the monotonic clock, by default for `busy`.

        Raises:
            sqlite3.Error: The database can't be written.
            OSError: Its file can't be created.
        """
        until = until or self._until()
        with self._alone(until):
            connection = self._open(until)
            with connection:
                _begin(connection, until)
                return work(connection)

    def read(
        self, query: str, parameters: Sequence[str | float] = (), until: float | None = None
    ) -> list[tuple[object, ...]]:
        """Return the rows of `query`, run here; none if there is no file. `until` as for `write`.

        Raises:
            sqlite3.Error: The database can't be read.
            OSError: Likewise.
        """
        until = until or self._until()
        with self._alone(until):
            if self.path is not None and not _exists(self.path):
                return []
            connection = self._open(until)
            return _patiently(lambda: connection.execute(query, parameters).fetchall(), until)

    def require_writable(self, until: float | None = None) -> None:
        """Return if the database could be written to now; see `check`.

        Raises:
            sqlite3.Error: It could not.
            OSError: Likewise.
        """
        if self.path is not None and not _exists(self.path):
            require_place(_nearest(self.path) if _is_default(self.path) else self.path)
        else:
            self.write(_version, until)

    def close(self) -> None:
        """Close the connections. The next use opens them again."""
        with self._in_use:
            self._close()
        if self._reader is not None:
            self._reader.close()

    def _until(self) -> float:
        return time.monotonic() + self._busy

    def _looking(self) -> "Database":
        """Return what looks: with a connection of its own, so that it waits for no writer here."""
        if self.path is None:
            return self
        self._reader = self._reader or Database(self.path, self._busy)
        return self._reader

    @contextmanager
    def _alone(self, until: float) -> Generator[None]:
        """Be the only thread that uses the connection, or fail at `until`."""
        if not self._in_use.acquire(timeout=max(0.0, until - time.monotonic())):
            raise TimeoutError("it is busy")
        try:
            yield
        finally:
            self._in_use.release()

    async def _in_thread(self, work: Callable[[], _T], queue: CapacityLimiter | None = None) -> _T:
        if self.path is None:  # nothing to wait for
            return work()
        return await to_thread.run_sync(work, limiter=queue or self._queue)

    def _open(self, until: float) -> sqlite3.Connection:
        """Return the connection to the file that is there now; create one if there is none."""
        identity = _identity(self.path) if self.path else None
        if self._connection is not None and identity == self._identity:
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
        self._connection, self._identity = connection, identity
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _prepare(connection: sqlite3.Connection, until: float) -> None:
    """Bring the schema up to date."""
    _patiently(lambda: _look_over(connection), until)  # before anything of it is changed
    _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), until)
    connection.execute("PRAGMA synchronous = FULL")  # what is written survives a power failure
    if _patiently(lambda: _version(connection), until) == len(_scripts()):
        return
    with connection:
        _begin(connection, until)
        _migrate(connection)


def _look_over(connection: sqlite3.Connection) -> None:
    with connection:
        connection.execute("BEGIN")  # another process may be migrating it
        require_ours(connection)


def _begin(connection: sqlite3.Connection, until: float) -> None:
    _patiently(lambda: connection.execute("BEGIN IMMEDIATE"), until)


def _patiently(attempt: Callable[[], _T], until: float) -> _T:
    """Return what `attempt` returns once nobody else keeps the file locked; it is tried once."""
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() >= until:
                raise
        time.sleep(_PAUSE)


def require_ours(connection: sqlite3.Connection) -> None:
    """Return if a database is empty, or is one that this version can use.

    Raises:
        sqlite3.DatabaseError: It is not. What `is_no_store` says of it is true.
    """
    version = _version(connection)
    if version > len(_scripts()):
        raise sqlite3.DatabaseError(NEWER)
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
    tables = _names(connection, query)
    if version:
        is_ours = "confirmations" in tables
    else:  # a new file, or one that was only an audit log
        columns = _names(connection, "SELECT name FROM pragma_table_info('audit')")
        is_ours = tables <= {"audit"} and columns in (set[str](), _AUDIT)
    if not is_ours:
        raise sqlite3.DatabaseError("it is another program's database")


def is_no_store(error: Exception) -> bool:
    """Whether a file can't be used for what is in it, and not because it can't be reached."""
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.OperationalError
    )


def _names(connection: sqlite3.Connection, query: str) -> set[str]:
    return {str(name) for (name,) in connection.execute(query)}


def _exists(path: Path) -> bool:
    """Whether there is a database that a reader need not create."""
    try:
        return path.stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def _nearest(path: Path) -> Path:
    """Return what must be made first so that there can be a file at `path`."""
    _require_home(path)
    while not path.parent.exists():
        path = path.parent
    return path


def _identity(path: Path) -> tuple[int, int]:
    """Which file is at `path`; an empty one is made if there is none, readable only by its owner.

    An existing one is not opened here: closing it would drop the locks that SQLite has on it
    elsewhere in this process.
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
    """Whether a file is in this user's state directory."""
    return path.parent == default_path().parent


def _make_private(path: Path) -> None:
    """Take from others what earlier versions, or a careless copy, let them read."""
    if sys.platform == "win32":
        return
    for each in (path.parent, *(path.with_name(path.name + end) for end in ("", "-wal", "-shm"))):
        with suppress(OSError):
            found = each.stat()
            if found.st_uid == os.getuid() and found.st_mode & 0o077:
                each.chmod(found.st_mode & 0o700)


def _require_home(path: Path) -> None:
    if not path.is_absolute():
        raise FileNotFoundError(f"{path}: this user has no home directory")


def _migrate(connection: sqlite3.Connection) -> None:
    require_ours(connection)  # which may have changed since
    scripts, version = _scripts(), _version(connection)
    for script in scripts[version:]:
        for statement in _statements(script):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(scripts)}")


def _version(connection: sqlite3.Connection) -> int:
    """How many of the migrations a database has had."""
    return cast("tuple[int]", connection.execute("PRAGMA user_version").fetchone())[0]


def _scripts() -> Sequence[str]:
    """Return the migrations, each of which brings a database to the next version."""
    folder = files("calls_mcp.storage") / "migrations"
    scripts = sorted((each.name, each.read_text("utf-8")) for each in folder.iterdir())
    return [script for _, script in scripts]


def _statements(script: str) -> Iterator[str]:
    """Return the statements of a script; `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines():
        statement = f"{statement}{line}\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
