"""Calls: a list, a page with a timeline for each call, and a form to hang up."""

import hashlib
import json
import re
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from calls_mcp.audit.search import AuditReader
from calls_mcp.console.browser_sessions import Session, session_of
from calls_mcp.console.context import READER, ConsoleContext, TimedCache
from calls_mcp.console.templating import page, read_decision
from calls_mcp.console.timeline import Event, Observations, timeline
from calls_mcp.errors import CallsError
from calls_mcp.tools.outcome import Approval, CallSummary, Failure, Outcome

_SID = re.compile("CA[0-9a-fA-F]{32}")
_LIVE = ("in-progress", "ringing", "queued")
_PAGE = 50  # calls of each status


@dataclass(frozen=True, slots=True)
class _CallList:
    """Calls, newest first, or the error of the API."""

    live: tuple[CallSummary, ...] = ()
    ended: tuple[CallSummary, ...] = ()
    error: Failure | None = None


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
            Route("/calls/{sid}", self.show),
            Route("/calls/{sid}/hang-up", self.confirm_hang_up),
            Route("/calls/{sid}/hang-up", self.hang_up, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        """Show the live calls and the newest ended ones."""
        calls = _CallList() if self._unavailable else await self._list()
        values = {"unavailable": self._unavailable, "calls": calls}
        return page(request, "calls.html", values)

    async def show(self, request: Request) -> Response:
        """Show a call with its timeline."""
        sid = _sid(request)
        outcome = Outcome(outcome="error") if self._unavailable else await self._fetch(sid)
        call, error = outcome.call, outcome.error
        events = await self._timeline(sid, call)
        is_missing = self._unavailable or (error and error.kind == "not_found")
        if is_missing and not (call or events):
            raise HTTPException(404, "This call is neither in the API nor in the audit log.")
        message = error.message if error else self._unavailable
        values = {"sid": sid, "call": call, "events": events, "error": message}
        can_hang_up = not self._console.settings.guard.read_only
        return page(request, "call.html", {**values, "can_hang_up": can_hang_up})

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
        statuses = [[call.sid, call.status] for call in (*calls.live, *calls.ended)]
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
        ended = [call for call in found[""].calls or () if call.sid not in live]
        self._observations.add([*live.values(), *ended])
        newest = sorted(live.values(), key=lambda call: call.created_at or "", reverse=True)
        return _CallList(tuple(newest), tuple(ended), error)

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
            approval = Approval(confirmation.token, by="elicitation")
            return await self._console.invoke("update_call", arguments, caller, approval)
        identifier = confirmation and confirmation.approval
        if identifier and await self._approve(identifier, session):
            return await self._console.invoke("update_call", arguments, caller)
        return outcome

    async def _approve(self, identifier: str, session: Session) -> bool:
        """Approve the operator's own request, unless another operator must; return the success."""
        approvals = self._console.approvals
        request = await approvals.find(identifier) if approvals else None
        if approvals is None or request is None or not session.may_approve(request):
            return False
        return await approvals.decide(request, approve=True, by=session.name) is not None

    async def _timeline(self, sid: str, call: CallSummary | None) -> list[Event]:
        observed, database = self._observations.of(sid), self._console.audit_database
        if database is None:
            return timeline([], call, observed)
        try:
            records = await anyio.to_thread.run_sync(AuditReader(database).about, sid)
        except CallsError as error:
            return [Event("", "Cannot read the audit log", f"{error}")]
        return timeline(records, call, observed)


def _sid(request: Request) -> str:
    sid: str = request.path_params["sid"]
    if not _SID.fullmatch(sid):
        raise HTTPException(404, "Not a call SID. A call SID is CA and 32 hexadecimal digits.")
    return sid


def _values(sid: str, outcome: Outcome) -> dict[str, object]:
    error = outcome.error
    message = f"{error.message} {error.hint}" if error else outcome.reason or ""
    approval = (outcome.confirmation and outcome.confirmation.approval) or ""
    return {"sid": sid, "call": outcome.call, "error": message, "approval": approval}
