"""The console as an ASGI application."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from calls_mcp.console.gate import Gate
from calls_mcp.console.house import House
from calls_mcp.console.login import Login
from calls_mcp.console.pages import page
from calls_mcp.errors import CallsError

_STATIC = Path(__file__).parent / "static"


def build_app(house: House, rooms: Iterable[BaseRoute]) -> ASGIApp:
    """The application of these rooms, behind its gate."""
    login = Login(house)
    app = Starlette(
        routes=[
            *login.routes,
            *rooms,
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        exception_handlers={
            HTTPException: partial(_refused, login),
            CallsError: partial(_failed, login),
        },
    )
    return Gate(app, house, login.outside)


async def _refused(login: Login, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # by the table above
    return _trouble(login, request, error.detail, error.status_code)


async def _failed(login: Login, request: Request, error: Exception) -> Response:
    return _trouble(login, request, f"{error}", 503)


def _trouble(login: Login, request: Request, what: str, status: int) -> Response:
    if request.state.session is None:
        return login.outside(request, what, status)
    return page(request, "trouble.html", {"what": what}, status)
