"""The log that the path writes to."""

import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from calls_mcp.audit.chain import Fields
from calls_mcp.audit.database import Database
from calls_mcp.audit.discretion import Numbers
from calls_mcp.audit.lines import LinesFile
from calls_mcp.audit.locking import PATIENCE
from calls_mcp.audit.record import Ending, Entry, decided, ended, moment
from calls_mcp.audit.sinks import FAILURES, AuditUnavailable, Sink, Stderr, reason_of

_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Attempt:
    """A change whose beginning is recorded, and whose end is still to be.

    `id` ties the two records together. `started` is by the monotonic clock, in seconds.
    `begun_in` is where the beginning is recorded, `recorded` whether the end is; None as long as
    there is none.
    """

    id: str
    entry: Entry
    started: float
    begun_in: list[Sink] = field(default_factory=list["Sink"])
    recorded: bool | None = None


class AuditLog:
    """Writes to every one of `sinks`, off the event loop and one record at a time.

    `clock` gives the time of a record, in epoch seconds. A record waits `patience` seconds at most
    for other processes to let go of a sink, counted from when it was asked for.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        numbers: Numbers = "whole",
        clock: Callable[[], float] = time.time,
        patience: float = PATIENCE,
    ) -> None:
        self._sinks = tuple(sinks)
        self._patience = patience
        self._numbers: Numbers = numbers
        self._clock = clock
        self._queue = anyio.CapacityLimiter(1)
        self._lock = threading.Lock()  # holds when a task was cancelled, and its thread runs on

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
        """Record what became of a change; cancellation waits until that is done.

        Returns:
            Whether it was recorded. If not, the change has happened nevertheless, and the
            invocation's result should carry a warning. Ending it again changes nothing.
        """
        await self._surely(partial(self._end, attempt, self._after(attempt, ending), self._until()))
        return attempt.recorded is True

    async def note(self, entry: Entry) -> None:
        """Record a refusal, or a question that was asked: what is decided and sends nothing.

        Raises:
            AuditUnavailable: It could not be recorded.
        """
        fields = self._fields("decided", _identifier(), decided(entry, self._numbers))
        await self._in_thread(partial(self._note, fields, self._until()))

    async def aclose(self) -> None:
        """Let go of the sinks."""
        await self._surely(self._close)

    def _until(self) -> float:
        return time.monotonic() + self._patience

    def _after(self, attempt: Attempt, ending: Ending) -> Fields:
        duration = time.monotonic() - attempt.started
        outcome = ended(attempt.entry, ending, duration, self._numbers)
        return self._fields("after", attempt.id, outcome)

    def _fields(self, phase: str, identifier: str, rest: Fields) -> Fields:
        return {**rest, "time": moment(self._clock()), "phase": phase, "id": identifier}

    async def _surely(self, job: Callable[[], None]) -> None:
        """Run a job that does nothing the second time, even if the task is cancelled."""
        with anyio.CancelScope(shield=True):
            try:
                await self._in_thread(job)
            except anyio.get_cancelled_exc_class():  # by asyncio itself, which heeds no scope
                await self._in_thread(job)
                raise

    async def _in_thread(self, job: Callable[[], None]) -> None:
        await anyio.to_thread.run_sync(job, limiter=self._queue)

    def _begin(self, attempt: Attempt, fields: Fields, until: float) -> None:
        with self._lock:
            if attempt.recorded is not None:  # it was cancelled before its turn came
                return
            try:
                for sink in self._sinks:
                    _append(sink, fields, until)
                    attempt.begun_in.append(sink)
            except AuditUnavailable as error:
                _finish(attempt, self._after(attempt, Ending("error", error.kind)), until)
                raise

    def _end(self, attempt: Attempt, fields: Fields, until: float) -> None:
        with self._lock:
            _finish(attempt, fields, until)

    def _note(self, fields: Fields, until: float) -> None:
        with self._lock:
            for sink in self._sinks:
                _append(sink, fields, until)

    def _close(self) -> None:
        with self._lock:
            for sink in self._sinks:
                sink.close()


@asynccontextmanager
async def open_audit(
    file: Path | None,
    database: Path | None,
    numbers: Numbers = "whole",
    clock: Callable[[], float] = time.time,
    patience: float = PATIENCE,
) -> AsyncGenerator[AuditLog]:
    """A log in a file of JSON lines, in an SQLite database, in both, or else on stderr.

    Neither is opened before there is something to record: where that fails, changes are refused
    and reads go on. `clock` gives the time in epoch seconds; `patience` is in seconds.
    """
    sinks: list[Sink] = [LinesFile(file)] if file is not None else []
    sinks += [Database(database)] if database is not None else []
    log = AuditLog(sinks or [Stderr()], numbers, clock, patience)
    try:
        yield log
    finally:
        await log.aclose()


def obstacle(path: Path, *, is_database: bool, patience: float = PATIENCE) -> str:
    """Why no record could be kept at `path` now; empty if one could. Nothing is written.

    `patience` is in seconds, for other processes to let go of it.
    """
    try:
        (Database(path) if is_database else LinesFile(path)).require_writable(patience)
    except FAILURES as error:
        return reason_of(error)
    return ""


def _append(sink: Sink, fields: Fields, until: float) -> None:
    try:
        sink.append(fields, max(0.0, until - time.monotonic()))
    except FAILURES as error:
        _logger.error("the audit record could not be written: %s", error)  # noqa: TRY400  # no traceback: it names the arguments' frame
        raise AuditUnavailable(reason_of(error)) from error


def _finish(attempt: Attempt, fields: Fields, until: float) -> None:
    """Record the end wherever the beginning is, and only once."""
    if attempt.recorded is None:
        recorded = [_is_appended(sink, fields, until) for sink in attempt.begun_in]
        attempt.recorded = all(recorded)


def _is_appended(sink: Sink, fields: Fields, until: float) -> bool:
    try:
        _append(sink, fields, until)
    except AuditUnavailable:
        return False
    return True


def _identifier() -> str:
    return secrets.token_hex(8)
