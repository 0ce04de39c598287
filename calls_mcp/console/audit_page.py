"""Audit: the audit log, searched and filtered, with its chain verified; and exported."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from calls_mcp.audit.records import ORDER, parse
from calls_mcp.audit.search import AuditReader, Filter
from calls_mcp.audit.verification import Report, describe, verify
from calls_mcp.console.context import House
from calls_mcp.console.rendering import page
from calls_mcp.errors import CallsError
from calls_mcp.tools.catalog import Json, load_operations

_PAGE = 50  # records
_LARGEST = 2**62
_MOMENT, _LONGEST = 0.05, 30.0  # seconds
_State = tuple[int, ...]
"""Which file it is, how long, and when it was changed; and the same of its write-ahead log."""
_DECISIONS = ("asked", "approved", "allowed", "denied", "declined", "expired", "replayed", "void")
_PHASES = ("decided", "before", "after", "recovered")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class Audit:
    """The pages of the record."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._report: Report | None = None
        self._checked: _State | None = None
        self._checking: anyio.Event | None = None

    async def all(self, request: Request) -> Response:
        """A page of records, the newest first, and what the chain comes to."""
        wanted, path = _filter(request), self._house.record
        values: dict[str, object] = {
            "lacking": self._house.lacking.get("record", ""),
            "filter": wanted,
            "tools": [*load_operations()],
            "decisions": _DECISIONS,
            "phases": _PHASES,
            "query": urlencode(wanted.given),
            "records": [],
            "older": "",
            "report": None,
            "told": [],
            "is_checking": False,
        }
        if path is None or not path.exists():
            values["lacking"] = values["lacking"] or "Nothing has been recorded yet."
            return page(request, "audit.html", values)
        read = partial(AuditReader(path).page, wanted, _PAGE, _before(request))
        found, older = await anyio.to_thread.run_sync(read)
        if not (found or wanted.given or older):
            values["lacking"] = "Nothing has been recorded yet."
        report, is_checking = await self._told(path, anew="check" in request.query_params)
        told = describe(report) if report else []
        values |= {"records": found, "report": report, "told": told, "is_checking": is_checking}
        if older is not None:
            values["older"] = urlencode(wanted.given | {"before": str(older)})
        return page(request, "audit.html", values)

    async def export(self, request: Request) -> Response:
        """All records that are looked for, in their order, as a file."""
        path, form = self._house.record, request.path_params["form"]
        if path is None or form not in _FORMS:
            raise HTTPException(404, "There is no such file.")
        media, write = _FORMS[form]
        lines = write(path, _filter(request))
        name = f'attachment; filename="audit.{form}"'
        return StreamingResponse(lines, media_type=media, headers={"Content-Disposition": name})

    async def _told(self, path: Path, *, anew: bool) -> tuple[Report | None, bool]:
        """The last check of the whole chain, and whether another is under way.

        One begins when the file has changed, or it is asked for. A page waits for it for a moment
        only: it takes the longer, the longer the record is.
        """
        state = await anyio.to_thread.run_sync(_state, path)
        if self._checking is None and (anew or state != self._checked):
            self._checking = anyio.Event()
            self._house.background.start(partial(self._check, path, state, self._checking))
        if self._checking is not None:
            with anyio.move_on_after(_LONGEST if anew else _MOMENT):
                await self._checking.wait()
        return self._report, self._checking is not None

    async def _check(self, path: Path, state: _State, done: anyio.Event) -> None:
        try:
            self._report = await anyio.to_thread.run_sync(partial(verify, path, is_aside=True))
            self._checked = state
        except CallsError:
            self._report = self._checked = None
        finally:
            self._checking = None
            done.set()


def _filter(request: Request) -> Filter:
    asked = request.query_params
    names = (field.name for field in fields(Filter))
    return Filter(**{name: asked.get(name, "").strip()[:200] for name in names})


def _before(request: Request) -> int | None:
    before = request.query_params.get("before", "")
    if not before:
        return None
    if not (before.isascii() and before.isdigit() and int(before[:20]) < _LARGEST):
        raise HTTPException(400, "There is no such page.")
    return int(before)


def _state(path: Path) -> _State:
    """What is different once a database was changed."""
    database = path.stat()
    try:
        log = path.with_name(f"{path.name}-wal").stat()
    except FileNotFoundError:
        return database.st_ino, database.st_size, database.st_mtime_ns
    return (database.st_ino, database.st_size, database.st_mtime_ns, log.st_size, log.st_mtime_ns)


def _lines(path: Path, wanted: Filter) -> Iterator[bytes]:
    """The very lines: without a filter, `calls-mcp audit verify` takes them."""
    return (line + b"\n" for _, line in AuditReader(path).rows(wanted))


def _table(path: Path, wanted: Filter) -> Iterator[bytes]:
    yield _cells(ORDER)
    for _, line in AuditReader(path).rows(wanted):
        if record := parse(line):
            yield _cells(tuple(_cell(record.get(name)) for name in ORDER))


def _cells(cells: tuple[str, ...]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerow(cells)
    return written.getvalue().encode(errors="replace")


def _cell(value: Json) -> str:
    """A value that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    is_number = isinstance(value, int | float)
    return f"'{text}" if text.startswith(_FORMULA) and not is_number else text


_Write = Callable[[Path, Filter], Iterator[bytes]]
_FORMS: dict[str, tuple[str, _Write]] = {
    "jsonl": ("application/x-ndjson", _lines),
    "csv": ("text/csv; charset=utf-8", _table),
}
