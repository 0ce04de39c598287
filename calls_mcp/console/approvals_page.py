"""Approvals: the pending approval requests, and a page for each request."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from calls_mcp.console.browser_sessions import session_of
from calls_mcp.console.context import ConsoleContext
from calls_mcp.console.templating import page, read_decision
from calls_mcp.errors import StoreUnavailable
from calls_mcp.guard.operator_decisions import Approvals
from calls_mcp.storage.records import ApprovalRequest, Position
from calls_mcp.tools.catalog import Action

_DECISIONS = {"approve": True, "deny": False}
_PAGE = 50  # requests
_NEWEST, _MAX_RECENT = 100, 10  # requests that are read, and decisions that are shown
_REASONS = ("Not needed", "Not now", "Wrong number", "Ask me first")
_POSITION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,20})?)-([0-9A-Za-z_-]{1,64})")
_NOT_FOUND = "No approval request has this id. It may have been deleted after it expired."
_OWN_REQUEST = "You made this request, so another operator must approve it."


@dataclass(frozen=True, slots=True)
class _Approve:
    """The button that approves an action.

    One with a `warning` asks twice. `effect` labels the request in the queue.
    """

    label: str
    effect: str = ""
    warning: str = ""


_APPROVE: dict[Action, _Approve] = {
    "place": _Approve("Call now"),
    "redirect": _Approve("Redirect call", "Redirects a live call"),
    "modify": _Approve("Change call", "Changes a live call"),
    "hang_up": _Approve(
        "Hang up", "Ends a live call", "This ends the call immediately. You can't undo it."
    ),
    "delete": _Approve(
        "Delete record",
        "Deletes a record",
        "This permanently deletes the record. You can't undo it.",
    ),
}


class ApprovalsPage:
    """The pages about approval requests: the queue on the left, one request on the right."""

    def __init__(self, console: ConsoleContext) -> None:
        self._approvals = console.approvals
        self._unavailable = console.unavailable.get("approvals", "")
        self.routes = [
            Route("/approvals", self.index),
            Route("/approvals/{id}", self.show),
            Route("/approvals/{id}", self.decide, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        """Show the queue, oldest first, and the first request in it."""
        approvals = self._approvals
        if approvals is None:
            return page(request, "approvals.html", {"unavailable": self._unavailable})
        return page(request, "approvals.html", await _values(request, approvals, None))

    async def show(self, request: Request) -> Response:
        """Show one request in its current state, beside the queue."""
        approvals, approval = await self._find(request)
        return page(request, "approvals.html", await _values(request, approvals, approval))

    async def decide(self, request: Request) -> Response:
        """Approve or deny a request and show the next one, or show the earlier decision."""
        form = await read_decision(request)
        approvals, approval = await self._find(request)
        approve = _DECISIONS.get(form.get("decision", ""))
        if approve is None:
            raise HTTPException(400, "decision must be approve or deny.")
        session, reason = session_of(request), form.get("reason", "")
        if approve and not session.may_approve(approval):
            raise HTTPException(403, _OWN_REQUEST)
        own = f"/approvals/{approval.identifier}"
        if approve and _APPROVE[approval.action].warning and "confirmed" not in form:
            return RedirectResponse(f"{own}?confirm=1#confirm", 303)
        decided = await approvals.decide(approval, approve=approve, by=session.name, reason=reason)
        if decided and decided.ours:
            return RedirectResponse(await _next(approvals, approval), 303)
        if decided:
            approval = replace(approval, decision=decided.decision)
        values = await _values(request, approvals, approval)
        return page(request, "approvals.html", values | {"is_late": True}, 409)

    async def fingerprint(self) -> str:
        """Return a text that changes whenever the set of pending requests changes."""
        try:
            return await self._approvals.pending_version() if self._approvals else ""
        except StoreUnavailable:
            return "unavailable"

    async def _find(self, request: Request) -> tuple[Approvals, ApprovalRequest]:
        approvals = self._approvals
        approval = await approvals.find(request.path_params["id"]) if approvals else None
        if approvals is None or approval is None:
            raise HTTPException(404, _NOT_FOUND)
        return approvals, approval


def _position(text: str) -> Position | None:
    """Return the position in the link of a page; None for the first page."""
    if not text:
        return None
    found = _POSITION.fullmatch(text)
    if found is None:
        raise HTTPException(400, "Invalid page position. Start again from the first page.")
    return Position(float(found[1]), found[2])


async def _next(approvals: Approvals, decided: ApprovalRequest) -> str:
    """Return the path of the next pending request, with the receipt of a decision."""
    position = Position(decided.asked_at, decided.identifier)
    following = await approvals.page(1, position)
    found = following.requests or (await approvals.page(1)).requests
    path = "".join(f"/{each.identifier}" for each in found)
    return f"/approvals{path}?decided={decided.identifier}"


async def _values(
    request: Request, approvals: Approvals, approval: ApprovalRequest | None
) -> dict[str, object]:
    """Return the values of the template; without `approval`, the first in the queue is shown."""
    query = request.query_params
    after, decided = query.get("after", ""), query.get("decided", "")
    queue, now = await approvals.page(_PAGE, _position(after)), await approvals.now()
    shown = approval or next(iter(queue.requests), None)
    receipt = await approvals.find(decided) if decided else None
    is_receipt = receipt is not None and receipt.decision is not None
    kept = {"after": after, "decided": decided, "confirm": query.get("confirm", "")}
    return {
        "queue": queue.requests,
        "count": queue.count,
        "after": after,
        "next": queue.last and f"{queue.last.asked_at!r}-{queue.last.identifier}",
        "now": now,
        "recent": _recent(await approvals.newest(_NEWEST), now),
        "is_index": approval is None,
        "shown": shown and await _state(approvals, shown, now),
        "receipt": receipt and is_receipt and await _state(approvals, receipt, now),
        "is_confirming": bool(kept["confirm"]),
        "query": urlencode({name: value for name, value in kept.items() if value}),
        "buttons": _APPROVE,
        "reasons": _REASONS,
    }


def _recent(newest: Sequence[ApprovalRequest], now: float) -> Sequence[ApprovalRequest]:
    """Return the closed requests, the latest decision first."""

    def closed_at(request: ApprovalRequest) -> float:
        return request.decision.at if request.decision else request.expires_at

    closed = (each for each in newest if each.decision or each.has_expired(now))
    return sorted(closed, key=closed_at, reverse=True)[:_MAX_RECENT]


async def _state(approvals: Approvals, approval: ApprovalRequest, now: float) -> dict[str, object]:
    """Return a request and what happened to it."""
    return {
        "approval": approval,
        "has_expired": approval.has_expired(now),
        "is_over": now >= 2 * approval.expires_at - approval.asked_at,
        "progress": await approvals.progress(approval),
    }
