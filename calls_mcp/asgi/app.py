"""The ASGI app: the MCP endpoint behind all that guards it, and whether it is well."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from calls_mcp.asgi.admission import SESSION_IDLE, Admission, Quota
from calls_mcp.asgi.drain import Drain, Draining
from calls_mcp.asgi.hosts import Endpoint, allowed
from calls_mcp.asgi.intake import Bounds, Intake
from calls_mcp.authentication import principal
from calls_mcp.authentication.gate import open_gate
from calls_mcp.runtime import Runtime
from calls_mcp.settings import Settings
from calls_mcp.store.memory_counters import MemoryCounters

_SHARE = 4  # one principal gets this part of all sessions
_PATIENCE = 3  # seconds for what readiness depends on


def build_app(server: Server[Any], runtime: Runtime, endpoint: Endpoint, drain: Drain) -> Starlette:
    """The app that serves `server` at `endpoint`, and tells at /healthz and /readyz how it is.

    Raises:
        ConfigurationError: What authenticates callers is wrong.
    """
    settings = runtime.settings
    security = allowed(endpoint, settings)
    mcp = server.streamable_http_app(
        streamable_http_path=endpoint.path,
        stateless_http=settings.calls_mcp_http_stateless,
        max_request_body_size=settings.calls_mcp_http_body_bytes,
        session_idle_timeout=SESSION_IDLE,
        max_sessions=settings.calls_mcp_http_sessions,
        transport_security=security,
        host=endpoint.host,
    )
    gate = open_gate(settings)
    guarded = Draining(gate.guard(_admission(mcp, settings)), drain)
    return Starlette(
        routes=[
            Route("/healthz", _healthy),
            Route("/readyz", _readiness(runtime, drain)),
            *gate.routes,
            Mount("/", Intake(guarded, _bounds(settings), security)),
        ],
        lifespan=lambda _: server.session_manager.run(),
    )


def _admission(app: Starlette, settings: Settings) -> Admission:
    sessions = 0 if settings.calls_mcp_http_stateless else settings.calls_mcp_http_sessions
    each = Quota(
        settings.calls_mcp_http_rate, settings.calls_mcp_http_concurrency, sessions // _SHARE
    )
    in_all = Quota(
        settings.calls_mcp_http_rate_in_all, settings.calls_mcp_http_concurrency_in_all, sessions
    )
    return Admission(
        app, each, in_all, lambda: principal() or "anonymous", MemoryCounters(time.time)
    )


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        head=settings.calls_mcp_http_header_bytes,
        body=settings.calls_mcp_http_body_bytes,
        patience=settings.calls_mcp_http_patience,
        sessions=not settings.calls_mcp_http_stateless,
    )


async def _healthy(_request: Request) -> Response:
    return JSONResponse({"alive": True})


def _readiness(runtime: Runtime, drain: Drain) -> Callable[[Request], Awaitable[Response]]:
    async def ready(_request: Request) -> Response:
        is_ready = False
        if not drain.has_begun:
            with anyio.move_on_after(_PATIENCE):
                is_ready = await runtime.is_ready()
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    return ready
