"""Audit log: search, verify and export its records."""

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from calls_mcp.audit.records import ORDER, parse
from calls_mcp.audit.search import AuditReader, Filter
from calls_mcp.audit.verification import ChainVerifier, Report, describe
from calls_mcp.console.context import ConsoleContext
from calls_mcp.console.events import DECISION_WORDS, PHASE_WORDS, summarize
from calls_mcp.console.exports import csv_row, download, is_csv
from calls_mcp.console.reader_time import bounds, date_faults, zone_of
from calls_mcp.console.templating import page
from calls_mcp.errors import CallsError
from calls_mcp.tools.catalog import load_operations

_PAGE = 30  # changes, with four records each or more
_SEQ = re.compile(r"[0-9]{1,18}")
_MAX_FILTER = 200  # characters
_WHOLE_EVERY = 3600  # seconds
_SHORT_WAIT, _LONG_WAIT = 0.05, 30.0  # seconds
_EMPTY = "No records yet. Every change that an agent requests is recorded here."


class AuditPage:
    """The pages of the audit log."""

    def __init__(self, console: ConsoleContext) -> None:
        self._database = console.audit_database
        self._unavailable = console.unavailable.get("audit_database", "")
        self._background = console.background
        self._verifier = ChainVerifier(console.audit_database) if console.audit_database else None
        self._clock = console.clock
        self._report: Report | None = None
        self._whole_at = 0.0
        """When all records were last checked, in epoch seconds."""
        self._verified: tuple[int, ...] | None = None
        self._verifying: anyio.Event | None = None
        self.routes = [
            Route("/audit", self.index),
            Route("/audit/export.{format}", self.export),
        ]

    async def index(self, request: Request) -> Response:
        """Show a page of changes, newest first, and the result of the integrity check."""
        wanted = _filter(request)
        faults = [*_faults(wanted)]
        values: dict[str, object] = {
            "faults": faults,
            "unavailable": self._unavailable,
            "filter": wanted,
            "tools": [*load_operations()],
            "decisions": DECISION_WORDS,
            "phases": PHASE_WORDS,
            "query": urlencode(wanted.given),
        }
        if faults:
            return page(request, "audit.html", values, 400)
        if self._database and self._database.exists():
            values |= await self._read(self._database, wanted, request)
        elif self._database:
            values["unavailable"] = _EMPTY
        return page(request, "audit.html", values)

    async def export(self, request: Request) -> Response:
        """Export all matching records as a file, oldest first."""
        encode, wanted = _csv if is_csv(request) else _jsonl, _filter(request)
        if self._database is None:
            raise HTTPException(404, self._unavailable)
        if faults := [*_faults(wanted)]:
            raise HTTPException(400, " ".join(faults))
        return download(request, "audit", encode(self._database, _in_utc(wanted, request)))

    async def _read(self, database: Path, wanted: Filter, request: Request) -> dict[str, object]:
        reader, utc = AuditReader(database), _in_utc(wanted, request)
        read = partial(reader.changes, utc, _PAGE, _before(request))
        changes, older = await anyio.to_thread.run_sync(read)
        report = await self._verify(database, again="check" in request.query_params)
        is_empty = not (changes or wanted.given or older)
        return {
            "unavailable": _EMPTY if is_empty else "",
            "changes": [*map(summarize, changes)],
            "older": "" if older is None else urlencode(wanted.given | {"before": str(older)}),
            "report": report,
            "lines": describe(report) if report else [],
            "whole_at": self._whole_at,
            "is_verifying": self._verifying is not None,
        }

    async def _verify(self, database: Path, *, again: bool) -> Report | None:
        """Return the latest report about the log; None before the first or if the check failed.

        The log is checked after the file has changed. A whole log takes long, so that happens in
        the background, once an hour or with `again`. A page waits for it briefly, or for longer
        with `again`.
        """
        version = await anyio.to_thread.run_sync(_version, database)
        is_whole = again or self._clock() >= self._whole_at + _WHOLE_EVERY
        if self._verifying is None and (is_whole or version != self._verified):
            self._verifying = anyio.Event()
            check = partial(self._verify_now, version, self._verifying, is_whole=is_whole)
            self._background.start(check)
        if self._verifying is not None:
            with anyio.move_on_after(_LONG_WAIT if again else _SHORT_WAIT):
                await self._verifying.wait()
        return self._report

    async def _verify_now(
        self, version: tuple[int, ...], done: anyio.Event, *, is_whole: bool
    ) -> None:
        now = self._clock()
        try:
            if self._verifier:
                check = partial(self._verifier.verify, is_whole=is_whole)
                self._report = await anyio.to_thread.run_sync(check)
            self._verified = version
            self._whole_at = now if is_whole else self._whole_at
        except CallsError:
            self._report = self._verified = None
        finally:
            self._verifying = None
            done.set()


def _filter(request: Request) -> Filter:
    query = request.query_params
    names = (field.name for field in fields(Filter))
    return Filter(**{name: query.get(name, "").strip()[:_MAX_FILTER] for name in names})


def _in_utc(wanted: Filter, request: Request) -> Filter:
    """Return a filter with the reader's dates as times in UTC."""
    since, until = bounds(wanted.since, wanted.until, zone_of(request))
    return replace(wanted, since=since, until=until)


def _faults(wanted: Filter) -> Iterator[str]:
    yield from date_faults(wanted.since, wanted.until)
    for name, value, known in (
        ("Tool", wanted.tool, [*load_operations()]),
        ("Decision", wanted.decision, DECISION_WORDS),
        ("Step", wanted.phase, PHASE_WORDS),
    ):
        if value and value not in known:
            yield f"{name}: use one of {', '.join(known)}."


def _before(request: Request) -> int | None:
    before = request.query_params.get("before", "")
    if not before:
        return None
    if not _SEQ.fullmatch(before):
        raise HTTPException(400, "Invalid page position. Start again from the first page.")
    return int(before)


def _version(database: Path) -> tuple[int, ...]:
    """Return numbers that change whenever a database or its write-ahead log changes."""
    stat = database.stat()
    version = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    try:
        log = database.with_name(f"{database.name}-wal").stat()
    except FileNotFoundError:
        return version
    return (*version, log.st_size, log.st_mtime_ns)


def _jsonl(database: Path, wanted: Filter) -> Iterator[bytes]:
    """Yield the exact lines, so that `calls-mcp audit verify` accepts an unfiltered export."""
    return (line + b"\n" for _, line in AuditReader(database).rows(wanted))


def _csv(database: Path, wanted: Filter) -> Iterator[bytes]:
    yield csv_row(ORDER)
    for _, line in AuditReader(database).rows(wanted):
        if record := parse(line):
            yield csv_row([record.get(name) for name in ORDER])
