"""The ASGI app: the MCP endpoint behind all that protects it, and its health."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcp.server.lowlevel import Server
from starlette.applications import Starlette
from starlette.routing import Route

from calls_mcp.http.authentication import Gate
from calls_mcp.http.endpoint import Endpoint, allowed
from calls_mcp.http.health import Readiness, healthy
from calls_mcp.http.limits import Admission, Reader, Threshold, share_of
from calls_mcp.http.sessions import IDLE, Sessions
from calls_mcp.http.shutdown import Drain, Tracked
from calls_mcp.http.verifier import open_verifier
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Settings
from calls_mcp.storage.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_SPARE = 3  # seconds


def build_app(
    *,
    server: Server[Any],
    runtime: Runtime,
    endpoint: Endpoint,
    drain: Drain,
    rates: RateLimiter,
    is_crowded: Callable[[], bool],
) -> Starlette:
    """Make the app that serves at an endpoint, and tells at /healthz and /readyz how it is.

    `is_crowded` tells whether too many connections are open.

    Raises:
        ConfigurationError: What authenticates callers is wrong.
    """
    settings, path = runtime.settings, endpoint.path
    security = allowed(endpoint, settings)
    gate = Gate(settings, open_verifier(settings, runtime.monotonic))
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=path,
        stateless_http=settings.http.stateless,
        max_request_body_size=settings.http.body_bytes,
        session_idle_timeout=IDLE,
        max_sessions=settings.http.sessions,
        transport_security=security,
        host=endpoint.host,
    )
    if not settings.http.stateless:
        most = share_of(settings.http.sessions)
        app = Sessions(app, most, runtime.monotonic, runtime.streams)
    app = Admission(gate.permit(app), settings, rates, lambda: drain.has_begun)
    app = Reader(app, settings.http.body_bytes, settings.http.patience)
    app = Tracked(gate.guard(app), drain, _longest(settings))
    app = Threshold(app, settings, security, is_crowded)
    outer = Starlette(
        routes=[
            Route("/healthz", healthy),
            Route("/readyz", Readiness(runtime, drain)),
            *gate.routes,
            Route(path, app),
        ],
        lifespan=lambda _: server.session_manager.run(),
    )
    outer.router.redirect_slashes = False
    return outer


def _longest(settings: Settings) -> float:
    """The seconds that a request may take: a user's time to answer, and two tool calls'."""
    return settings.guard.confirm_ttl + 2 * settings.twilio.deadline + _SPARE
