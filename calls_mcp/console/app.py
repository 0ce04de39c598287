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

from calls_mcp.console.door import Door
from calls_mcp.console.gate import Gate
from calls_mcp.console.house import House
from calls_mcp.console.pages import page
from calls_mcp.errors import CallsError

_STATIC = Path(__file__).parent / "static"


def build_app(house: House, rooms: Iterable[BaseRoute]) -> ASGIApp:
    """The application of these rooms, behind its gate."""
    door = Door(house)
    app = Starlette(
        routes=[
            *door.routes,
            *rooms,
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        exception_handlers={
            HTTPException: partial(_refused, door),
            CallsError: partial(_failed, door),
        },
    )
    return Gate(app, house, door.outside)


async def _refused(door: Door, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # by the table above
    return _trouble(door, request, error.detail, error.status_code)


async def _failed(door: Door, request: Request, error: Exception) -> Response:
    return _trouble(door, request, f"{error}", 503)


def _trouble(door: Door, request: Request, what: str, status: int) -> Response:
    if request.state.session is None:
        return door.outside(request, what, status)
    return page(request, "trouble.html", {"what": what}, status)
