"""Calls: a searchable list, a page with a timeline for each call, and a form to hang up."""

import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import urlencode

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from calls_mcp.audit.search import NOWHERE, AuditReader, Origin
from calls_mcp.console.browser_sessions import Session, session_of
from calls_mcp.console.call_search import (
    DIRECTIONS,
    SORTS,
    STATUSES,
    CallFilter,
    parse_filter,
    sort_calls,
)
from calls_mcp.console.context import READER, ConsoleContext, TimedCache
from calls_mcp.console.events import Observations, timeline
from calls_mcp.console.exports import csv_row, download, is_csv
from calls_mcp.console.templating import page, read_decision
from calls_mcp.errors import CallsError, InvalidArguments, StoreUnavailable
from calls_mcp.storage.records import ApprovalRequest
from calls_mcp.tools.call_summary import CallSummary
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import Answer, Failure, Outcome

_SID = re.compile("CA[0-9a-fA-F]{32}")
_LIVE = ("in-progress", "ringing", "queued")
_PAGE = 50  # calls of each status
_SEARCHED = 500  # calls that one page searches, if the API does not support a filter
_EXPORTED: Mapping[str, Json] = {"limit": 1000}  # of each request
_COLUMNS = (
    *(field.alias or name for name, field in CallSummary.model_fields.items()),
    "requested_by",
    "approved_by",
)


@dataclass(frozen=True, slots=True)
class _CallList:
    """Calls, newest first, or the error of the API. `cursor` leads to older ones.

    `searched` is how many calls were searched, if the API does not support a filter.
    """

    live: tuple[CallSummary, ...] = ()
    others: tuple[CallSummary, ...] = ()
    error: Failure | None = None
    cursor: str = ""
    searched: int = 0


class CallsPage:
    """The pages about calls. All open tabs share one API read per interval."""

    def __init__(self, console: ConsoleContext) -> None:
        self._console = console
        self._unavailable = console.unavailable.get("runtime", "")
        interval = console.settings.watch.interval
        self._lists: TimedCache[_CallList] = TimedCache(interval, console.clock)
        self._calls: TimedCache[Outcome] = TimedCache(interval, console.clock)
        self._observations = Observations(console.clock)
        self.routes = [
            Route("/calls", self.index),
            Route("/calls/export.{format}", self.export),
            Route("/calls/{sid}", self.show),
            Route("/calls/{sid}/hang-up", self.confirm_hang_up),
            Route("/calls/{sid}/hang-up", self.hang_up, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        """Show the live calls and the newest others, or the calls that match a filter."""
        wanted, query = parse_filter(request), request.query_params
        cursor, order = query.get("cursor", ""), query.get("sort", "")
        if _SID.fullmatch(wanted.search):
            return RedirectResponse(f"/calls/{wanted.search}", 303)
        faults, calls = [*wanted.faults], _CallList()
        if not (faults or self._unavailable):
            calls = await self._search(wanted, cursor)
        if calls.error and cursor and calls.error.kind == InvalidArguments.kind:
            raise HTTPException(400, "Invalid page position. Start again from the first page.")
        filters = urlencode(wanted.given)
        values = {
            "unavailable": self._unavailable,
            "filter": wanted,
            "faults": faults,
            "live": calls.live,
            "calls": sort_calls(calls.others, order),
            "error": calls.error,
            "searched": calls.searched,
            "is_first": not (wanted.given or cursor),
            "origins": await self._read_origins((*calls.live, *calls.others)),
            "now": self._console.clock(),
            "statuses": STATUSES,
            "directions": DIRECTIONS,
            "filters": filters,
            "here": urlencode(wanted.given | ({"cursor": cursor} if cursor else {})),
            "older": calls.cursor and urlencode(wanted.given | {"cursor": calls.cursor}),
            "order": order if order.removeprefix("-") in SORTS else "",
        }
        return page(request, "calls.html", values, 400 if faults else 200)

    async def export(self, request: Request) -> Response:
        """Export all matching calls as a file, newest first."""
        encode, wanted = _csv if is_csv(request) else _jsonl, parse_filter(request)
        if faults := [*wanted.faults]:
            raise HTTPException(400, " ".join(faults))
        # The first page is read before the response begins, so that an error has its status.
        first = await self._list_calls({**_EXPORTED, **wanted.arguments})
        if first.error:
            raise HTTPException(503, first.error.message)
        return download(request, "calls", encode(self._rows(first, wanted)))

    async def show(self, request: Request) -> Response:
        """Show a call with its timeline."""
        sid = _sid(request)
        outcome = Outcome(outcome="error") if self._unavailable else await self._fetch(sid)
        call, error = outcome.call, outcome.error
        records, problem = await self._records(sid)
        events = timeline(records, call, self._observations.of(sid))
        is_missing = self._unavailable or (error and error.kind == "not_found")
        if is_missing and not (call or events):
            raise HTTPException(404, "This call is neither in the API nor in the audit log.")
        approval = next((each["approval_id"] for each in records if each.get("approval_id")), "")
        values = {
            "sid": sid,
            "call": call,
            "events": events,
            "error": error.message if error else self._unavailable,
            "problem": problem,
            "placed": next((each for each in records if each.get("arguments")), None),
            "decided": next((each for each in records if each.get("decided_by")), None),
            "approval": await self._approval(str(approval)),
            "legs": (legs := await self._legs(sid) if call else ()),
            "transcript": self._transcript(sid),
            "raw": call and json.dumps(call.content(), indent=2, ensure_ascii=False),
            "can_hang_up": not self._console.settings.guard.read_only,
            "origins": await self._read_origins(legs),
            "now": self._console.clock(),
        }
        return page(request, "call.html", values)

    async def confirm_hang_up(self, request: Request) -> Response:
        """Show a form that asks for confirmation."""
        sid = _sid(request)
        return page(request, "hang_up.html", _values(sid, await self._fetch(sid)))

    async def hang_up(self, request: Request) -> Response:
        """End a call like the tool does, with the same checks, policy and audit log."""
        await read_decision(request)
        sid = _sid(request)
        outcome = await self._complete(sid, session_of(request))
        self._calls.discard(sid)
        self._lists.discard("")
        if outcome.outcome == "done":
            return RedirectResponse(f"/calls/{sid}", 303)
        return page(request, "hang_up.html", _values(sid, outcome), 409)

    async def fingerprint(self) -> str:
        """Return a text that changes whenever a call is added, changes or ends."""
        if self._unavailable:
            return ""
        calls = await self._list()
        statuses = [[call.sid, call.status] for call in (*calls.live, *calls.others)]
        return hashlib.sha256(json.dumps(statuses).encode()).hexdigest()[:16]

    async def _list(self) -> _CallList:
        return await self._lists.get("", self._read_list)

    async def _read_list(self) -> _CallList:
        found: dict[str, Outcome] = {}

        async def read(status: str) -> None:
            wanted = {"status": status} if status else {}
            found[status] = await self._console.invoke("list_calls", {"limit": _PAGE, **wanted})

        async with anyio.create_task_group() as tasks:
            for status in ("", *_LIVE):
                tasks.start_soon(read, status)
        error = next((each.error for each in found.values() if each.error), None)
        live = {call.sid: call for status in _LIVE for call in found[status].calls or ()}
        others = [call for call in found[""].calls or () if call.sid not in live]
        self._observations.add([*live.values(), *others])
        newest = sorted(live.values(), key=lambda call: call.created_at or "", reverse=True)
        return _CallList(tuple(newest), tuple(others), error, found[""].next_cursor or "")

    async def _search(self, wanted: CallFilter, cursor: str) -> _CallList:
        """Return a page of the calls that match. The first page without a filter has live calls."""
        if not (wanted.given or cursor):
            return await self._list()

        async def read() -> _CallList:
            most = _SEARCHED if wanted.is_local else _PAGE
            start = {"cursor": cursor} if cursor else wanted.arguments
            outcome = await self._list_calls({"limit": most, **start})
            found = outcome.calls or ()
            origins = await self._read_origins(found)
            matching = tuple(call for call in found if wanted.matches(call, origins))
            searched = len(found) if wanted.is_local else 0
            return _CallList((), matching, outcome.error, outcome.next_cursor or "", searched)

        key = urlencode(wanted.given | {"cursor": cursor, "zone": wanted.zone.key})
        return await self._lists.get(key, read)

    async def _list_calls(self, arguments: Mapping[str, Json]) -> Outcome:
        return await self._console.invoke("list_calls", arguments)

    async def _rows(self, first: Outcome, wanted: CallFilter) -> AsyncIterator[Mapping[str, Json]]:
        outcome = first
        while True:
            origins = await self._read_origins(outcome.calls or ())
            for call in outcome.calls or ():
                if wanted.matches(call, origins):
                    origin = origins.get(call.sid, NOWHERE)
                    people = {"requested_by": origin.requester, "approved_by": origin.approver}
                    known = {name: who for name, who in people.items() if who}
                    yield cast("Mapping[str, Json]", call.content() | known)
            if not outcome.next_cursor:
                return
            outcome = await self._list_calls({**_EXPORTED, "cursor": outcome.next_cursor})
            if outcome.error:
                # A file that ended here would look complete.
                raise ConnectionError(outcome.error.message)

    async def _read_origins(self, calls: Iterable[CallSummary]) -> Mapping[str, Origin]:
        try:
            sids = [call.sid for call in calls]
            return await self._console.read_origins(sids)
        except CallsError:
            return {}  # the audit log's page reports the error

    async def _fetch(self, sid: str) -> Outcome:
        async def read() -> Outcome:
            return await self._console.invoke("fetch_call", {"sid": sid})

        outcome = await self._calls.get(sid, read)
        if outcome.call:
            self._observations.add([outcome.call])
        return outcome

    async def _complete(self, sid: str, session: Session) -> Outcome:
        """End a call. The operator confirmed on the page, so a confirmation is accepted at once."""
        caller = replace(READER, principal=session.principal, can_ask=True, waits=False)
        arguments = {"sid": sid, "status": "completed"}
        outcome = await self._console.invoke("update_call", arguments, caller)
        confirmation = outcome.confirmation
        if confirmation and confirmation.token:
            answer = Answer(confirmation.token, by="elicitation")
            return await self._console.invoke("update_call", arguments, caller, answer)
        identifier = confirmation and confirmation.approval
        if identifier and await self._approve(identifier, session):
            return await self._console.invoke("update_call", arguments, caller)
        return outcome

    async def _approve(self, identifier: str, session: Session) -> bool:
        """Approve the operator's own request and return True, unless another operator must."""
        approvals = self._console.approvals
        request = await approvals.find(identifier) if approvals else None
        if approvals is None or request is None or not session.may_approve(request):
            return False
        return await approvals.decide(request, approve=True, by=session.name) is not None

    async def _records(self, sid: str) -> tuple[Sequence[Mapping[str, Json]], str]:
        """Return the records about a call, or why they can't be read."""
        database = self._console.audit_database
        if database is None:
            return (), ""
        try:
            return await anyio.to_thread.run_sync(AuditReader(database).about, sid), ""
        except CallsError as error:
            return (), f"{error}"

    async def _approval(self, identifier: str) -> ApprovalRequest | None:
        """Return an approval request, None if it is no longer kept."""
        approvals = self._console.approvals
        with suppress(StoreUnavailable):
            return await approvals.find(identifier) if approvals and identifier else None
        return None

    def _transcript(self, sid: str) -> Sequence[str]:
        """Return what the callee heard and did, which only the sandbox knows."""
        runtime = self._console.runtime
        read = runtime and runtime.access.transcript
        return read(sid) if read else ()

    async def _legs(self, sid: str) -> Sequence[CallSummary]:
        """Return the calls that a call started."""

        async def read() -> _CallList:
            outcome = await self._list_calls({"parent_call_sid": sid})
            return _CallList(others=outcome.calls or (), error=outcome.error)

        return (await self._lists.get(f"legs of {sid}", read)).others


async def _jsonl(rows: AsyncIterator[Mapping[str, Json]]) -> AsyncIterator[bytes]:
    async for row in rows:
        yield json.dumps(row).encode() + b"\n"


async def _csv(rows: AsyncIterator[Mapping[str, Json]]) -> AsyncIterator[bytes]:
    yield csv_row(_COLUMNS)
    async for row in rows:
        yield csv_row([row.get(name) for name in _COLUMNS])


def _sid(request: Request) -> str:
    sid: str = request.path_params["sid"]
    if not _SID.fullmatch(sid):
        raise HTTPException(404, "Not a call SID. A call SID is CA and 32 hexadecimal digits.")
    return sid


def _values(sid: str, outcome: Outcome) -> dict[str, object]:
    error = outcome.error
    has_ended = outcome.call is not None and outcome.call.live is False
    ended = "This call has already ended." if has_ended else ""
    message = error.message if error else outcome.reason or ended  # hints are for agents
    approval = (outcome.confirmation and outcome.confirmation.approval) or ""
    return {"sid": sid, "call": outcome.call, "error": message, "approval": approval}
