"""Waiting: what the operator is asked, and their answer."""

import re
from collections.abc import Mapping
from dataclasses import replace

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from calls_mcp.console.browser_sessions import session_of
from calls_mcp.console.context import House
from calls_mcp.console.forms import own_fields
from calls_mcp.console.rendering import page
from calls_mcp.errors import StoreUnavailable
from calls_mcp.guard.operator import Approvals
from calls_mcp.storage import ApprovalRequest, PendingPage, Position

_DECISIONS = {"approve": True, "deny": False}
_SHOWN = 50
_PLACE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,20})?)-([0-9A-Za-z_-]{1,64})")
_OWN = "You have asked for this yourself: somebody else must approve it."


class Waiting:
    """The pages of what waits."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def all(self, request: Request) -> Response:
        """Whatever can be decided now, the oldest first, some on each page."""
        approvals, after = self._house.approvals, request.query_params.get("after", "")
        shown = await approvals.page(_SHOWN, _position(after)) if approvals else PendingPage((), 0)
        values = {
            "requests": shown.requests,
            "count": shown.count,
            "after": after,
            "next": shown.last and f"{shown.last.asked_at!r}-{shown.last.identifier}",
            "now": approvals.clock() if approvals else 0,
            "lacking": self._house.lacking.get("approvals", ""),
        }
        return page(request, "waiting.html", values)

    async def one(self, request: Request) -> Response:
        """Show one request, as it is now."""
        approvals, asked = await self._found(request)
        return page(request, "case.html", await _values(approvals, asked))

    async def decide(self, request: Request) -> Response:
        """Decide a request; whoever comes second is told what stands."""
        sent = await own_fields(request)
        approvals, asked = await self._found(request)
        decision = sent.get("decision", "")
        if decision not in _DECISIONS:
            raise HTTPException(400, "Say approve or deny.")
        approve, reason = _DECISIONS[decision], sent.get("reason", "")
        session = session_of(request)
        if approve and not session.may_approve(asked):
            raise HTTPException(403, _OWN)
        decided = await approvals.decide(asked, approve=approve, by=session.name, reason=reason)
        if decided and decided.ours:
            return RedirectResponse(f"/approvals/{asked.identifier}", 303)
        standing = replace(asked, decision=decided.decision) if decided else asked
        return page(request, "case.html", await _values(approvals, standing, late=True), 409)

    async def mark(self) -> str:
        """What is another whenever something else waits; while the store is away, nothing does."""
        approvals = self._house.approvals
        try:
            return await approvals.mark() if approvals else ""
        except StoreUnavailable:
            return "away"

    async def _found(self, request: Request) -> tuple[Approvals, ApprovalRequest]:
        approvals = self._house.approvals
        asked = await approvals.find(request.path_params["id"]) if approvals else None
        if approvals is None or asked is None:
            raise HTTPException(404, "There is no such approval, or it is not kept any more.")
        return approvals, asked


def _position(text: str) -> Position | None:
    """Where a page begins, as the one before has it."""
    if not text:
        return None
    found = _PLACE.fullmatch(text)
    if found is None:
        raise HTTPException(400, "There is no such page.")
    return Position(float(found[1]), found[2])


async def _values(
    approvals: Approvals, asked: ApprovalRequest, *, late: bool = False
) -> Mapping[str, object]:
    now = approvals.clock()
    state = await approvals.state(asked.identifier) if asked.decision else None
    return {
        "asked": asked,
        "now": now,
        "late": late,
        "expired": asked.has_expired(now),
        "is_over": now >= 2 * asked.expires_at - asked.asked_at,
        "is_used": state is not None and state.claimed_at is not None,
        "outcome": state and state.outcome,
    }
