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
        """Insert a record after the last one. Log an error if our own last one is gone."""
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


@dataclass(slots=True, eq=False)
class Attempt:
    """A change between its first and its second record.

    `id` links the two records. `started` is by the monotonic clock, in seconds. `recorded` says
    whether the second record was written; it is None until that was tried.
    """

    id: str
    entry: Entry
    started: float
    is_begun: bool = False
    recorded: bool | None = None


class AuditLog:
    """Writes to `destination` in a thread, one record at a time.

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
        self._lock = threading.Lock()  # a cancelled task leaves the queue before its thread is done

    async def begin(self, entry: Entry) -> Attempt:
        """Record a change that is about to be sent. The caller must `end` the returned attempt.

        Raises:
            AuditUnavailable: It could not be recorded, so it must not be sent.
        """
        attempt = Attempt(secrets.token_hex(8), entry, time.monotonic())
        fields = self._fields("before", attempt.id, decision_fields(entry, self._numbers))
        try:
            await self._in_thread(partial(self._begin, attempt, fields, self._until()))
        except anyio.get_cancelled_exc_class():
            await self.end(attempt, Ending("error", "cancelled"))
            raise
        return attempt

    async def end(self, attempt: Attempt, ending: Ending) -> bool:
        """Record the result of a change, even if the task is cancelled.

        Returns:
            Whether the result was recorded. If not, the tool call's result should have a warning,
            because the change was made. Ending an attempt again changes nothing.
        """
        duration = time.monotonic() - attempt.started
        outcome = result_fields(attempt.entry, ending, duration, self._numbers)
        fields = self._fields("after", attempt.id, outcome)
        await self._shielded(partial(self._end, attempt, fields, self._until()))
        return attempt.recorded is True

    async def record(self, entry: Entry) -> None:
        """Record a refusal or a request for confirmation; nothing is sent for these.

        Raises:
            AuditUnavailable: It could not be recorded.
        """
        fields = self._fields(
            "decided", secrets.token_hex(8), decision_fields(entry, self._numbers)
        )
        await self._in_thread(partial(self._append, fields, self._until()))

    async def require_ready(self) -> None:
        """Check whether a change could be recorded now, without recording anything.

        Raises:
            AuditUnavailable: It could not.
        """
        until = self._until()
        check = partial(self._destination.require_ready, until)
        await self._in_thread(partial(self._attempt, check, until))

    async def aclose(self) -> None:
        """Close the destination."""
        await self._shielded(self._destination.close)

    def _until(self) -> float:
        return time.monotonic() + self._busy_timeout

    def _fields(self, phase: str, identifier: str, rest: Fields) -> Fields:
        return {**rest, "time": timestamp(self._clock()), "phase": phase, "id": identifier}

    async def _shielded(self, job: Callable[[], None]) -> None:
        """Run an idempotent job, even if the task is cancelled."""
        with anyio.CancelScope(shield=True):
            try:
                await self._in_thread(job)
            except anyio.get_cancelled_exc_class():  # asyncio's own cancellation ignores the shield
                await self._in_thread(job)
                raise

    async def _in_thread(self, job: Callable[[], None]) -> None:
        await anyio.to_thread.run_sync(self._alone, job, limiter=self._queue)

    def _alone(self, job: Callable[[], None]) -> None:
        with self._lock:
            job()

    def _begin(self, attempt: Attempt, fields: Fields, until: float) -> None:
        if attempt.recorded is None:  # otherwise it was cancelled before its turn came
            self._append(fields, until)
            attempt.is_begun = True

    def _end(self, attempt: Attempt, fields: Fields, until: float) -> None:
        if attempt.recorded is None:
            attempt.recorded = attempt.is_begun and self._is_appended(fields, until)

    def _append(self, fields: Fields, until: float) -> None:
        self._attempt(partial(self._destination.append, fields, until), until)

    def _attempt(self, job: Callable[[], None], until: float) -> None:
        try:
            if time.monotonic() > until:  # those before it in the queue took all the time
                raise TimeoutError("it is busy")
            job()
        except _FAILURES as error:
            unavailable = AuditUnavailable(self._destination.where, _reason(error))
            _logger.error("%s", unavailable.for_operator)  # noqa: TRY400  # a traceback would add nothing
            raise unavailable from error

    def _is_appended(self, fields: Fields, until: float) -> bool:
        try:
            self._append(fields, until)
        except AuditUnavailable:
            return False
        return True


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
