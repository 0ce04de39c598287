"""Calls: live ones on top, each with its story, and a button that hangs up."""

import hashlib
import json
import re
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from calls_mcp.console.browser_sessions import Session, session_of
from calls_mcp.console.context import READER, Fresh, House
from calls_mcp.console.forms import own_fields
from calls_mcp.console.rendering import page
from calls_mcp.console.timeline import Event, Sightings, story
from calls_mcp.errors import CallsError
from calls_mcp.tools.catalog import Json, load_operations
from calls_mcp.tools.outcome import Approval, CallSummary, Failure, Outcome

_SID = re.compile("CA[0-9a-fA-F]{32}")
_LIVE = ("in-progress", "ringing", "queued")
_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Listed:
    """What the API told of calls; or why it did not."""

    live: tuple[CallSummary, ...] = ()
    ended: tuple[CallSummary, ...] = ()
    error: Failure | None = None


class Calls:
    """The pages of calls: one look at the API, now and then, for all who look at them."""

    def __init__(self, house: House) -> None:
        self._house = house
        interval = house.settings.watch.interval
        self._lists: Fresh[Listed] = Fresh(interval, house.clock)
        self._calls: Fresh[Outcome] = Fresh(interval, house.clock)
        self._sightings = Sightings(house.clock)

    async def all(self, request: Request) -> Response:
        """Those that are live, and the newest of the others."""
        lacking = self._house.lacking.get("runtime", "")
        listed = Listed() if lacking else await self._listed()
        return page(request, "calls.html", {"lacking": lacking, "listed": listed})

    async def one(self, request: Request) -> Response:
        """A call, and its story."""
        sid = _sid(request)
        lacking = self._house.lacking.get("runtime", "")
        outcome = Outcome(outcome="error") if lacking else await self._fetched(sid)
        call = outcome.call
        events = await self._story(sid, call)
        error = outcome.error
        if not (call or events) and (lacking or (error and error.kind == "not_found")):
            raise HTTPException(404, "Neither the API nor the record tells of such a call.")
        values = {"sid": sid, "call": call, "events": events, "trouble": lacking}
        values |= {"trouble": error.message} if error else {}
        return page(request, "call.html", values)

    async def ask(self, request: Request) -> Response:
        """Ask whether it is meant."""
        sid = _sid(request)
        outcome = await self._fetched(sid)
        return page(request, "hang_up.html", _question(sid, outcome))

    async def hang_up(self, request: Request) -> Response:
        """End a call by the path of the tool: its checks, the policy, the record."""
        await own_fields(request)
        sid = _sid(request)
        outcome = await self._hung_up(sid, session_of(request))
        self._calls.forget(sid)
        self._lists.forget("")
        if outcome.outcome == "done":
            return RedirectResponse(f"/calls/{sid}", 303)
        return page(request, "hang_up.html", _question(sid, outcome), 409)

    async def mark(self) -> str:
        """What is another whenever a call has come, changed or ended."""
        if self._house.runtime is None:
            return ""
        listed = await self._listed()
        told = [[call.sid, call.status] for call in (*listed.live, *listed.ended)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    async def _listed(self) -> Listed:
        return await self._lists.get("", self._list)

    async def _list(self) -> Listed:
        found: dict[str, Outcome] = {}

        async def look(status: str) -> None:
            wanted: dict[str, Json] = {"limit": _SHOWN}
            found[status] = await self._read(
                "list_calls", wanted | {"status": status} if status else wanted
            )

        async with anyio.create_task_group() as tasks:
            for status in ("", *_LIVE):
                tasks.start_soon(look, status)
        error = next((o.error for o in found.values() if o.error), None)
        live = {call.sid: call for status in _LIVE for call in found[status].calls or ()}
        ended = [call for call in found[""].calls or () if call.sid not in live]
        self._sightings.note([*live.values(), *ended])
        newest = sorted(live.values(), key=lambda call: call.created_at or "", reverse=True)
        return Listed(tuple(newest), tuple(ended), error)

    async def _fetched(self, sid: str) -> Outcome:
        async def fetch() -> Outcome:
            return await self._read("fetch_call", {"sid": sid})

        outcome = await self._calls.get(sid, fetch)
        if outcome.call:
            self._sightings.note([outcome.call])
        return outcome

    async def _read(self, tool: str, arguments: dict[str, Json]) -> Outcome:
        runtime = self._house.runtime
        if runtime is None:
            raise HTTPException(503, self._house.lacking["runtime"])
        async with runtime.invoker() as invoker:
            return await invoker.invoke(load_operations()[tool], arguments, READER)

    async def _hung_up(self, sid: str, session: Session) -> Outcome:
        runtime = self._house.runtime
        if runtime is None:
            raise HTTPException(503, self._house.lacking["runtime"])
        caller = replace(READER, principal=session.principal, can_ask=True, waits=False)
        operation, arguments = load_operations()["update_call"], {"sid": sid, "status": "completed"}
        async with runtime.invoker() as invoker:
            outcome = await invoker.invoke(operation, {**arguments}, caller)
            confirmation = outcome.confirmation
            if token := confirmation and confirmation.token:  # they were asked on the page before
                approval = Approval(token, by="elicitation")
                return await invoker.invoke(operation, {**arguments}, caller, approval)
            identifier = confirmation and confirmation.approval
            if identifier and await self._approved(identifier, session):
                return await invoker.invoke(operation, {**arguments}, caller)
        return outcome

    async def _approved(self, identifier: str, session: Session) -> bool:
        """Approve what must be: the one operator there is has just asked for it themselves."""
        approvals = self._house.approvals
        request = await approvals.find(identifier) if approvals else None
        if approvals is None or request is None or not session.may_approve(request):
            return False
        return await approvals.decide(request, approve=True, by=session.name) is not None

    async def _story(self, sid: str, call: CallSummary | None) -> list[Event]:
        path = self._house.record
        seen = self._sightings.of(sid)
        if path is None or not path.exists():
            return story(None, sid, call, seen)
        try:
            return await anyio.to_thread.run_sync(story, path, sid, call, seen)
        except CallsError as error:
            return [Event("", "The record can't be read", f"{error}")]


def _sid(request: Request) -> str:
    sid: str = request.path_params["sid"]
    if not _SID.fullmatch(sid):
        raise HTTPException(404, "That is no call's SID.")
    return sid


def _question(sid: str, outcome: Outcome) -> dict[str, object]:
    error = outcome.error
    trouble = f"{error.message} {error.hint}" if error else outcome.reason or ""
    approval = (outcome.confirmation and outcome.confirmation.approval) or ""
    return {"sid": sid, "call": outcome.call, "trouble": trouble, "approval": approval}
