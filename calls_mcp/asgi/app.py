"""The ASGI app: the MCP endpoint behind all that guards it, and whether it is well."""

import math
from dataclasses import dataclass
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from calls_mcp.asgi.admission import Admission, Quota
from calls_mcp.asgi.drain import Drain, Tracked
from calls_mcp.asgi.hosts import Endpoint, allowed
from calls_mcp.asgi.intake import Bounds, Reader, Threshold
from calls_mcp.asgi.sessions import IDLE, Sessions
from calls_mcp.authentication import principal
from calls_mcp.connections import Crowd
from calls_mcp.runtime import Runtime
from calls_mcp.settings import Settings
from calls_mcp.store.rates import Rates

_SHARE = 4  # one principal gets this part of all sessions
_PATIENCE = 3  # seconds for what readiness depends on
_FRESH = 1  # second


@dataclass(frozen=True, slots=True)
class House:
    """What a server's app is built of: who serves, where, and what tells how it is going."""

    server: Server[Any]
    runtime: Runtime
    endpoint: Endpoint
    drain: Drain
    crowd: Crowd
    rates: Rates


def build_app(house: House) -> Starlette:
    """The app that serves at an endpoint, and tells at /healthz and /readyz how it is.

    Raises:
        ConfigurationError: What authenticates callers is wrong.
    """
    server, settings = house.server, house.runtime.settings
    security, bounds = allowed(house.endpoint, settings), _bounds(settings)
    mcp = server.streamable_http_app(
        streamable_http_path=house.endpoint.path,
        stateless_http=settings.http.stateless,
        max_request_body_size=settings.http.body_bytes,
        session_idle_timeout=IDLE,
        max_sessions=settings.http.sessions,
        transport_security=security,
        host=house.endpoint.host,
    )
    gate = house.runtime.gate()
    admitted = _admission(gate.permit(_sessions(mcp, house)), house)
    guarded = Tracked(gate.guard(Reader(admitted, bounds)), house.drain, _longest(settings))
    app = Starlette(
        routes=[
            Route("/healthz", _healthy),
            Route("/readyz", Readiness(house.runtime, house.drain)),
            *gate.routes,
            Route(house.endpoint.path, Threshold(guarded, bounds, security, house.crowd)),
        ],
        lifespan=lambda _: server.session_manager.run(),
    )
    app.router.redirect_slashes = False
    return app


def _longest(settings: Settings) -> float:
    """The seconds that a request may take: a user's time to answer, and two tool calls'."""
    return settings.guard.confirm_ttl + 2 * settings.twilio.deadline + _PATIENCE


def _sessions(app: ASGIApp, house: House) -> ASGIApp:
    settings = house.runtime.settings
    if settings.http.stateless:
        return app
    most = settings.http.sessions // _SHARE
    return Sessions(app, most, _whose, house.runtime.monotonic, house.runtime.streams)


def _admission(app: ASGIApp, house: House) -> ASGIApp:
    settings = house.runtime.settings
    streams, at_once = settings.http.sessions, settings.http.concurrency
    in_all_at_once = settings.http.concurrency_in_all
    each = Quota(settings.http.rate, at_once, streams // _SHARE, changes=at_once)
    in_all = Quota(
        settings.http.rate_in_all,
        in_all_at_once,
        streams,
        changes=max(streams, in_all_at_once),
    )
    return Admission(app, each, in_all, _whose, house.rates, house.drain)


def _whose() -> str:
    return principal() or "anonymous"


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        head=settings.http.header_bytes,
        body=settings.http.body_bytes,
        patience=settings.http.patience,
        sessions=not settings.http.stateless,
    )


async def _healthy(_request: Request) -> Response:
    return JSONResponse({"alive": True})


class Readiness:
    """Tells whether the server can be sent requests, and finds out at most once a second.

    The account is the server's own: one that only a principal has takes nobody else down.
    """

    def __init__(self, runtime: Runtime, drain: Drain) -> None:
        self._runtime = runtime
        self._drain = drain
        self._looking = anyio.Lock()
        self._known = (-math.inf, False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        is_ready = not self._drain.has_begun and await self._is_well()
        response = JSONResponse({"ready": is_ready}, 200 if is_ready else 503)
        await response(scope, receive, send)

    async def _is_well(self) -> bool:
        async with self._looking:
            at, is_well = self._known
            if anyio.current_time() - at > _FRESH:
                is_well = False
                with anyio.move_on_after(_PATIENCE):
                    is_well = await self._runtime.is_ready()
                self._known = (anyio.current_time(), is_well)
        return is_well
