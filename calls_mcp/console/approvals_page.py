"""Approvals: the pending approval requests, and a page for each request."""

import re
from dataclasses import replace

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from calls_mcp.console.browser_sessions import session_of
from calls_mcp.console.context import ConsoleContext
from calls_mcp.console.templating import page, read_decision
from calls_mcp.errors import StoreUnavailable
from calls_mcp.guard.operator import Approvals
from calls_mcp.storage import ApprovalRequest, PendingPage, Position

_DECISIONS = {"approve": True, "deny": False}
_PAGE = 50  # requests
_POSITION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,20})?)-([0-9A-Za-z_-]{1,64})")
_NOT_FOUND = "No approval request has this id. It may have been deleted after it expired."
_OWN_REQUEST = "You made this request, so another operator must approve it."


class ApprovalsPage:
    """The pages about approval requests."""

    def __init__(self, console: ConsoleContext) -> None:
        self._approvals = console.approvals
        self._unavailable = console.unavailable.get("approvals", "")
        self.routes = [
            Route("/approvals", self.index),
            Route("/approvals/{id}", self.show),
            Route("/approvals/{id}", self.decide, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        """Show a page of pending requests, oldest first."""
        approvals, after = self._approvals, request.query_params.get("after", "")
        position = _position(after)
        found = await approvals.page(_PAGE, position) if approvals else PendingPage((), 0)
        values = {
            "approvals": found.requests,
            "count": found.count,
            "after": after,
            "next": found.last and f"{found.last.asked_at!r}-{found.last.identifier}",
            "now": await approvals.now() if approvals else 0,
            "unavailable": self._unavailable,
        }
        return page(request, "approvals.html", values)

    async def show(self, request: Request) -> Response:
        """Show one request in its current state."""
        approvals, approval = await self._find(request)
        return page(request, "approval.html", await _values(approvals, approval))

    async def decide(self, request: Request) -> Response:
        """Approve or deny a request, or show the earlier decision."""
        form = await read_decision(request)
        approvals, approval = await self._find(request)
        approve = _DECISIONS.get(form.get("decision", ""))
        if approve is None:
            raise HTTPException(400, "decision must be approve or deny.")
        session, reason = session_of(request), form.get("reason", "")
        if approve and not session.may_approve(approval):
            raise HTTPException(403, _OWN_REQUEST)
        decided = await approvals.decide(approval, approve=approve, by=session.name, reason=reason)
        if decided and decided.ours:
            return RedirectResponse(f"/approvals/{approval.identifier}", 303)
        if decided:
            approval = replace(approval, decision=decided.decision)
        values = await _values(approvals, approval)
        return page(request, "approval.html", values | {"is_late": True}, 409)

    async def fingerprint(self) -> str:
        """Return a text that changes whenever the set of pending requests changes."""
        try:
            return await self._approvals.mark() if self._approvals else ""
        except StoreUnavailable:
            return "unavailable"

    async def _find(self, request: Request) -> tuple[Approvals, ApprovalRequest]:
        approvals = self._approvals
        approval = await approvals.find(request.path_params["id"]) if approvals else None
        if approvals is None or approval is None:
            raise HTTPException(404, _NOT_FOUND)
        return approvals, approval


def _position(text: str) -> Position | None:
    """Parse the position after which a page begins, from the link on the previous page."""
    if not text:
        return None
    found = _POSITION.fullmatch(text)
    if found is None:
        raise HTTPException(400, "Invalid page position. Start again from the first page.")
    return Position(float(found[1]), found[2])


async def _values(approvals: Approvals, approval: ApprovalRequest) -> dict[str, object]:
    now = await approvals.now()
    return {
        "approval": approval,
        "now": now,
        "has_expired": approval.has_expired(now),
        "is_over": now >= 2 * approval.expires_at - approval.asked_at,
        "progress": await approvals.progress(approval),
    }
