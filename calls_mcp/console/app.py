"""The console as an ASGI application."""

from collections.abc import Iterable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from calls_mcp.console.door import Door, outside
from calls_mcp.console.gate import Gate
from calls_mcp.console.house import House
from calls_mcp.console.pages import page, render
from calls_mcp.errors import CallsError

_STATIC = Path(__file__).parent / "static"


def build_app(house: House, rooms: Iterable[BaseRoute]) -> ASGIApp:
    """The application of these rooms, behind its gate."""
    app = Starlette(
        routes=[
            *Door(house).routes,
            *rooms,
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        exception_handlers={HTTPException: _refused, CallsError: _failed},
    )
    return Gate(app, house.place, house.entrance, outside())


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # by the table above
    return _trouble(request, error.detail, error.status_code)


async def _failed(request: Request, error: Exception) -> Response:
    return _trouble(request, f"{error}", 503)


def _trouble(request: Request, what: str, status: int) -> Response:
    if request.state.session is None:
        return HTMLResponse(render("outside.html", left=False), status_code=status)
    return page(request, "trouble.html", {"what": what}, status)
