"""Record each attempt to change something, before and after it is sent."""

import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import anyio
import anyio.to_thread

from calls_mcp.audit.masking import Numbers
from calls_mcp.audit.records import (
    START,
    Ending,
    Entry,
    Fields,
    Link,
    chain,
    decision_fields,
    result_fields,
    timestamp,
)
from calls_mcp.errors import AuditUnavailable
from calls_mcp.observability import stderr
from calls_mcp.settings import Settings
from calls_mcp.storage.database import (
    Database,
    database_path,
    default_path,
    require_ours,
    require_place,
)
from calls_mcp.tools.catalog import Json

BUSY_TIMEOUT = 10.0
"""Default for the seconds that a record waits for other processes."""

_logger = logging.getLogger(__name__)

_STDERR_TIMEOUT = 2.0  # seconds

_FAILURES = (OSError, ValueError, sqlite3.Error)  # ValueError is what a closed stream raises
_LAST = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1"
_FIND = "SELECT 1 FROM audit WHERE seq = ? AND hash = ?"
_CUT_OFF = (
    "Records are missing from the audit log %s: it was restored, or somebody removed them. Compare "
    "it with an export or a backup."
)
_INSERT = "INSERT INTO audit (seq, time, tool, sid, prev, hash, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
_COLUMNS = ("seq", "time", "tool", "sid", "prev", "hash")


class Destination(Protocol):
    """Where records go. `where` names it for the operator. One thread at a time uses it."""

    where: str

    def append(self, fields: Mapping[str, Json], until: float) -> None:
        """Write a record, chained to the last one; wait no longer than `until` (monotonic clock).

        Raises:
            OSError, ValueError, sqlite3.Error: It could not be written.
        """
        ...

    def require_ready(self, until: float) -> None:
        """Check whether a record could be written now; wait and raise as `append` does."""
        ...

    def close(self) -> None:
        """Close open files."""
        ...


class AuditTable:
    """The table `audit` of a database, which several processes may write to."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._database = Database(path, timeout)
        self._own: Link | None = None
        self.where = str(path)

    def append(self, fields: Mapping[str, Json], until: float) -> None:
        """Insert a record after the last one. Log an error if this process's last one is gone."""
        is_lost, self._own = self._database.write(partial(_insert, fields, self._own), until)
        if is_lost:
            _logger.error(_CUT_OFF, self.where)

    def require_ready(self, until: float) -> None:
        """Check whether a record could be inserted now. A missing file is not created."""
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
        """Write a record as one line. This fails if stderr is not being read."""
        timeout = min(_STDERR_TIMEOUT, until - time.monotonic())
        stderr.run_in_writer(partial(self._write, fields), timeout)

    def require_ready(self, until: float) -> None:
        """Do nothing: only writing shows whether stderr is read."""

    def close(self) -> None:
        """Leave stderr open."""

    def _write(self, fields: Mapping[str, Json]) -> None:
        record = chain(fields, self._last)
        stderr.write(record.line + "\n")
        self._last = record.link


@dataclass(frozen=True, slots=True)
class Attempt:
    """A change between its first and its second record.

    `id` links the two records. `started` is by the monotonic clock, in seconds.
    """

    id: str
    entry: Entry
    started: float


class AuditLog:
    """Writes to `destination` in a thread, one record at a time, even if the task is cancelled.

    `clock` returns the time of a record, in epoch seconds. A record fails if it has waited
    `busy_timeout` seconds for others.
    """

    def __init__(
        self,
        destination: Destination,
        numbers: Numbers = "whole",
        clock: Callable[[], float] = time.time,
        busy_timeout: float = BUSY_TIMEOUT,
    ) -> None:
        self._destination = destination
        self._busy_timeout = busy_timeout
        self._numbers: Numbers = numbers
        self._clock = clock
        self._queue = anyio.CapacityLimiter(1)
        self._lock = threading.Lock()  # asyncio's own cancellation frees the queue too early

    async def begin(self, entry: Entry) -> Attempt:
        """Record a change that is about to be sent. The caller must `end` the returned attempt.

        Raises:
            AuditUnavailable: It could not be recorded, so it must not be sent.
        """
        attempt = Attempt(secrets.token_hex(8), entry, time.monotonic())
        await self._append("before", attempt.id, decision_fields(entry, self._numbers))
        return attempt

    async def end(self, attempt: Attempt, ending: Ending) -> bool:
        """Record the result of a change.

        Returns:
            Whether the result was recorded. If not, the tool call's result should have a warning,
            because the change was made.
        """
        duration = time.monotonic() - attempt.started
        outcome = result_fields(attempt.entry, ending, duration, self._numbers)
        try:
            await self._append("after", attempt.id, outcome)
        except AuditUnavailable:
            return False
        return True

    async def record(self, entry: Entry) -> None:
        """Record a refusal or a request for confirmation; nothing is sent for these.

        Raises:
            AuditUnavailable: It could not be recorded.
        """
        await self._append("decided", secrets.token_hex(8), decision_fields(entry, self._numbers))

    async def require_ready(self) -> None:
        """Check whether a change could be recorded now, without recording anything.

        Raises:
            AuditUnavailable: It could not.
        """
        await self._in_thread(self._destination.require_ready)

    async def aclose(self) -> None:
        """Close the destination."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close, limiter=self._queue)

    async def _append(self, phase: str, identifier: str, rest: Fields) -> None:
        now = timestamp(self._clock())
        fields = {**rest, "time": now, "phase": phase, "id": identifier}
        await self._in_thread(partial(self._destination.append, fields))

    async def _in_thread(self, job: Callable[[float], None]) -> None:
        """Run `job` after all others; its argument is the time until which it may wait."""
        until = time.monotonic() + self._busy_timeout
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._run, job, until, limiter=self._queue)

    def _run(self, job: Callable[[float], None], until: float) -> None:
        try:
            with self._lock:
                if time.monotonic() > until:  # those before it in the queue took all the time
                    raise TimeoutError("it is busy")
                job(until)
        except _FAILURES as error:
            unavailable = AuditUnavailable(self._destination.where, _reason(error))
            _logger.error("%s", unavailable.for_operator)  # noqa: TRY400  # a traceback would add nothing
            raise unavailable from error

    def _close(self) -> None:
        with self._lock:
            self._destination.close()


@asynccontextmanager
async def open_audit(
    path: Path | None,
    numbers: Numbers = "whole",
    clock: Callable[[], float] = time.time,
    busy_timeout: float = BUSY_TIMEOUT,
) -> AsyncGenerator[AuditLog]:
    """Open the audit log in the SQLite file at `path`, or on stderr if that is None.

    The file is opened at the first record. If that fails, changes fail and reads still work.
    `clock` returns epoch seconds; `busy_timeout` is in seconds.
    """
    destination = AuditTable(path, busy_timeout) if path else AuditStream()
    log = AuditLog(destination, numbers, clock, busy_timeout)
    try:
        yield log
    finally:
        await log.aclose()


def audit_path(settings: Settings, *, sandbox: bool = False) -> Path | None:
    """Return the database with the audit log, or None if records go to stderr.

    By default this is the state database. If the state is in Redis, it is this user's own database.
    If the state is in memory, records go to stderr, because nothing is written to disk.
    """
    if chosen := settings.audit.database:
        return chosen if isinstance(chosen, Path) else None
    if settings.storage.is_memory:
        return None
    return database_path(settings.storage.location, sandbox=sandbox) or default_path(
        sandbox=sandbox
    )


def obstacle(path: Path, timeout: float) -> Exception | None:
    """Return why nothing could be recorded in the database at `path` now; None if it could.

    Nothing is written. `timeout` is how many seconds to wait for other processes.
    """
    try:
        if not path.exists():
            Database(path).require_writable()
        else:
            require_place(path)
            with closing(sqlite3.connect(path, timeout=timeout, isolation_level=None)) as database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
                require_ours(database)
    except _FAILURES as error:
        return error
    return None


def _insert(
    fields: Mapping[str, Json], own: Link | None, database: sqlite3.Connection
) -> tuple[bool, Link]:
    """Insert a record. Return whether the record `own` is gone, and the link to the new one."""
    is_lost = own is not None and not database.execute(_FIND, (own.seq, own.hash)).fetchone()
    last = cast("tuple[int, str] | None", database.execute(_LAST).fetchone())
    record = chain(fields, START if last is None else Link(*last))
    columns = (record.fields.get(name) for name in _COLUMNS)
    database.execute(_INSERT, (*columns, record.line))
    return is_lost, record.link


def _reason(error: Exception) -> str:
    """Return why a record could not be written, without a path."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error)
