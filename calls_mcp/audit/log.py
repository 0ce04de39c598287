"""Record each attempt to change something, before it is sent and after."""

import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from calls_mcp.audit.chain import Fields
from calls_mcp.audit.destinations import (
    FAILURES,
    AuditStream,
    AuditTable,
    Destination,
    reason_of,
)
from calls_mcp.audit.entries import Ending, Entry, decided, ended, timestamp
from calls_mcp.audit.masking import Numbers
from calls_mcp.errors import AuditUnavailable
from calls_mcp.storage.database import Database

PATIENCE = 10.0
"""Seconds that a record waits for other processes, unless told otherwise."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Attempt:
    """A change whose beginning is recorded, and whose end is not yet.

    `id` ties the two records together. `started` is by the monotonic clock, in seconds. `recorded`
    says whether the end is recorded; it is None until that has been tried.
    """

    id: str
    entry: Entry
    started: float
    is_begun: bool = False
    recorded: bool | None = None


class AuditLog:
    """Writes to `destination`, off the event loop and one record at a time.

    `clock` gives the time of a record, in epoch seconds. A record that has waited `patience`
    seconds for others is not tried any more.
    """

    def __init__(
        self,
        destination: Destination,
        numbers: Numbers = "whole",
        clock: Callable[[], float] = time.time,
        patience: float = PATIENCE,
    ) -> None:
        self._destination = destination
        self._patience = patience
        self._numbers: Numbers = numbers
        self._clock = clock
        self._queue = anyio.CapacityLimiter(1)
        self._lock = threading.Lock()  # a cancelled task leaves the queue before its thread is done

    async def begin(self, entry: Entry) -> Attempt:
        """Record a change that is about to be sent. Whoever gets the attempt must `end` it.

        Raises:
            AuditUnavailable: It could not be recorded, so it must not be sent.
        """
        attempt = Attempt(_identifier(), entry, time.monotonic())
        fields = self._fields("before", attempt.id, decided(entry, self._numbers))
        try:
            await self._in_thread(partial(self._begin, attempt, fields, self._until()))
        except anyio.get_cancelled_exc_class():
            await self.end(attempt, Ending("error", "cancelled"))
            raise
        return attempt

    async def end(self, attempt: Attempt, ending: Ending) -> bool:
        """Record the result of a change; cancellation waits until that is done.

        Returns:
            Whether it was recorded. If not, the change has happened nevertheless, and the
            invocation's result should carry a warning. Ending it again changes nothing.
        """
        duration = time.monotonic() - attempt.started
        outcome = ended(attempt.entry, ending, duration, self._numbers)
        fields = self._fields("after", attempt.id, outcome)
        await self._shielded(partial(self._end, attempt, fields, self._until()))
        return attempt.recorded is True

    async def note(self, entry: Entry) -> None:
        """Record a refusal or a question, which sends nothing.

        Raises:
            AuditUnavailable: It could not be recorded.
        """
        fields = self._fields("decided", _identifier(), decided(entry, self._numbers))
        await self._in_thread(partial(self._append, fields, self._until()))

    async def require_ready(self) -> None:
        """Return if a change could be recorded now. Nothing is recorded.

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
        return time.monotonic() + self._patience

    def _fields(self, phase: str, identifier: str, rest: Fields) -> Fields:
        return {**rest, "time": timestamp(self._clock()), "phase": phase, "id": identifier}

    async def _shielded(self, job: Callable[[], None]) -> None:
        """Run a job that does nothing the second time, even if the task is cancelled."""
        with anyio.CancelScope(shield=True):
            try:
                await self._in_thread(job)
            except anyio.get_cancelled_exc_class():  # by asyncio itself, which ignores the shield
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
            if time.monotonic() > until:  # others waited in vain before it
                raise TimeoutError("it is busy")
            job()
        except FAILURES as error:
            unavailable = AuditUnavailable(self._destination.where, reason_of(error))
            _logger.error("%s", unavailable.for_operator)  # noqa: TRY400  # no traceback: it names the arguments' frame
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
    patience: float = PATIENCE,
) -> AsyncGenerator[AuditLog]:
    """Open the audit log in the SQLite file at `path`, or on stderr if that is None.

    The file is not opened before there is something to record. If that fails, changes are refused
    and reads go on. `clock` gives the time in epoch seconds; `patience` is in seconds.
    """
    to = AuditTable(Database(path, patience)) if path else AuditStream()
    log = AuditLog(to, numbers, clock, patience)
    try:
        yield log
    finally:
        await log.aclose()


def _identifier() -> str:
    return secrets.token_hex(8)
