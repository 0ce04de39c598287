"""Waiting: what the operator is asked, and their answer."""

import re
from collections.abc import Mapping
from dataclasses import replace

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from calls_mcp.console.forms import own_fields
from calls_mcp.console.house import House
from calls_mcp.console.pages import page
from calls_mcp.console.sessions import session_of
from calls_mcp.office import Office
from calls_mcp.store import Filed, Place, Queue, StoreUnavailable

_DECISIONS = {"approve": True, "deny": False}
_SHOWN = 50
_PLACE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,20})?)-([0-9A-Za-z_-]{1,64})")
_OWN = "You have asked for this yourself: somebody else must approve it."


class Waiting:
    """The pages of what waits."""

    def __init__(self, house: House) -> None:
        self._house = house

    @property
    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/", self.all),
            Route("/waiting/{id}", self.one),
            Route("/waiting/{id}", self.decide, methods=["POST"]),
        ]

    async def all(self, request: Request) -> Response:
        """Whatever can be decided now, the oldest first, some on each page."""
        office, after = self._house.office, request.query_params.get("after", "")
        queue = await office.queue(_SHOWN, _place(after)) if office else Queue((), 0)
        values = {
            "cases": queue.cases,
            "count": queue.count,
            "after": after,
            "next": queue.last and f"{queue.last.asked_at!r}-{queue.last.identifier}",
            "now": office.clock() if office else 0,
            "lacking": self._house.lacking.get("office", ""),
        }
        return page(request, "waiting.html", values)

    async def one(self, request: Request) -> Response:
        """One case, as it stands."""
        office, filed = await self._found(request)
        return page(request, "case.html", await _case(office, filed))

    async def decide(self, request: Request) -> Response:
        """Decide a case; whoever comes second is told what stands."""
        sent = await own_fields(request)
        office, filed = await self._found(request)
        decision = sent.get("decision", "")
        if decision not in _DECISIONS:
            raise HTTPException(400, "Say approve or deny.")
        approve, reason = _DECISIONS[decision], sent.get("reason", "")
        session = session_of(request)
        if approve and not session.may_approve(filed.case):
            raise HTTPException(403, _OWN)
        decided = await office.decide(filed, approve=approve, by=session.name, reason=reason)
        if decided and decided.ours:
            return RedirectResponse(f"/waiting/{filed.case.identifier}", 303)
        standing = replace(filed, ruling=decided.ruling) if decided else filed
        return page(request, "case.html", await _case(office, standing, late=True), 409)

    async def mark(self) -> str:
        """What is another whenever something else waits; while the store is away, nothing does."""
        office = self._house.office
        try:
            return await office.mark() if office else ""
        except StoreUnavailable:
            return "away"

    async def _found(self, request: Request) -> tuple[Office, Filed]:
        office = self._house.office
        filed = await office.find(request.path_params["id"]) if office else None
        if office is None or filed is None:
            raise HTTPException(404, "There is no such approval, or it is not kept any more.")
        return office, filed


def _place(text: str) -> Place | None:
    """Where a page begins, as the one before has it."""
    if not text:
        return None
    found = _PLACE.fullmatch(text)
    if found is None:
        raise HTTPException(400, "There is no such page.")
    return Place(float(found[1]), found[2])


async def _case(office: Office, filed: Filed, *, late: bool = False) -> Mapping[str, object]:
    now = office.clock()
    fate = await office.fate(filed.case.identifier) if filed.ruling else None
    return {
        "filed": filed,
        "now": now,
        "late": late,
        "lapsed": filed.has_lapsed(now),
        "is_over": now >= 2 * filed.case.lapses_at - filed.case.asked_at,
        "is_used": fate is not None and fate.claimed_at is not None,
        "outcome": fate and fate.outcome,
    }
