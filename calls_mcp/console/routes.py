"""The console as an ASGI application: which page is where, behind its gate."""

from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from calls_mcp.console.access_control import Gate
from calls_mcp.console.approvals_page import Waiting
from calls_mcp.console.audit_page import Audit
from calls_mcp.console.calls_page import Calls
from calls_mcp.console.context import House
from calls_mcp.console.events import News
from calls_mcp.console.overview_page import Overview
from calls_mcp.console.policy_page import rules
from calls_mcp.console.rendering import page
from calls_mcp.console.sign_in import START, Login
from calls_mcp.errors import CallsError

_STATIC = Path(__file__).parent / "static"


def build_app(house: House, look_every: float) -> tuple[ASGIApp, News]:
    """Make the application, and what tells its open tabs of news every `look_every` seconds."""
    login, waiting, calls = Login(house), Waiting(house), Calls(house)
    audit, overview = Audit(house), Overview(house)
    news = News(house, {"approvals": waiting.mark, "calls": calls.mark}, look_every)
    routes = [
        Route("/sign-in", login.ask),
        Route("/sign-in", login.enter, methods=["POST"]),
        Route("/invitations", login.people),
        Route("/invitations", login.invite, methods=["POST"]),
        Route("/sign-out", login.leave, methods=["POST"]),
        Route("/", RedirectResponse(START)),
        Route("/approvals", waiting.all),
        Route("/approvals/{id}", waiting.one),
        Route("/approvals/{id}", waiting.decide, methods=["POST"]),
        Route("/calls", calls.all),
        Route("/calls/{sid}", calls.one),
        Route("/calls/{sid}/hang-up", calls.ask),
        Route("/calls/{sid}/hang-up", calls.hang_up, methods=["POST"]),
        Route("/audit", audit.all),
        Route("/audit/export.{form}", audit.export),
        Route("/overview", overview.all),
        Route("/policy", partial(rules, house)),
        Route("/events", news.events),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    handlers = {HTTPException: partial(_refused, login), CallsError: partial(_failed, login)}
    house.background.start(overview.prepare)
    house.background.start(news.run)
    return Gate(Starlette(routes=routes, exception_handlers=handlers), house, login.outside), news


async def _refused(login: Login, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # by the table above
    return _trouble(login, request, error.detail, error.status_code)


async def _failed(login: Login, request: Request, error: Exception) -> Response:
    return _trouble(login, request, f"{error}", 503)


def _trouble(login: Login, request: Request, what: str, status: int) -> Response:
    if request.state.session is None:
        return login.outside(request, what, status)
    return page(request, "trouble.html", {"what": what}, status)
