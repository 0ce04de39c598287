"""The ASGI app: the MCP endpoint with its checks, its shutdown, and health and readiness."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import anyio
import sniffio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.http.authentication import BearerAuthentication, authenticated, open_verifier
from calls_mcp.http.request_checks import (
    MESSAGE,
    HeadCheck,
    RequestRejected,
    check_json_rpc,
    is_stream,
    method_of,
    read_body,
    retry_later,
)
from calls_mcp.http.request_limits import (
    RequestLimits,
    SessionLimit,
    kind_of,
    principal_or_address,
)
from calls_mcp.observability import telemetry
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Settings

_ERRORS = range(400, 600)
_BROWSER_HEADERS = [
    "Authorization",
    "Content-Type",
    "Last-Event-ID",
    "Mcp-Method",
    "Mcp-Name",
    "Mcp-Protocol-Version",
    "Mcp-Session-Id",
]
_EXPOSED_HEADERS = ["Mcp-Protocol-Version", "Mcp-Session-Id", "Retry-After", "WWW-Authenticate"]
_BEGINNING = frozenset({"initialize", "tools/call", "subscriptions/listen"})
_RETRY_AFTER = 1  # second
_SPARE = 3  # seconds
_READINESS_TIMEOUT = 3  # seconds
_READINESS_FRESH = 1  # second
_CANCELLED = RequestRejected(
    504,
    "The server stopped this request before it finished. If it is a change, check whether it took "
    "effect before you repeat it",
)


class Shutdown:
    """Tracks the requests in progress, and whether the shutdown has begun."""

    def __init__(self) -> None:
        self.has_begun = False
        self._requests: set[anyio.CancelScope] = set()
        self._streams: set[anyio.CancelScope] = set()
        self._changed = anyio.Event()

    def begin(self) -> None:
        """Begin the shutdown."""
        self.has_begun = True

    async def idle(self) -> None:
        """Wait until no request is in progress. Streams don't count."""
        while self._requests:
            await self._changed.wait()

    def cancel_requests(self) -> None:
        """Cancel all requests and streams. A change that was sent is still finished."""
        for scope in (*self._requests, *self._streams):
            scope.cancel()

    @contextmanager
    def track(self, *, is_stream: bool) -> Generator[anyio.CancelScope]:
        """Yield the cancel scope of a request while it is served."""
        group = self._streams if is_stream else self._requests
        scope = anyio.CancelScope()
        group.add(scope)
        try:
            yield scope
        finally:
            group.discard(scope)
            if not group:
                self._changed.set()
                self._changed = anyio.Event()


def build_app(
    *,
    server: Server[Any],
    runtime: Runtime,
    path: str,
    security: TransportSecuritySettings,
    shutdown: Shutdown,
    limits: RequestLimits,
) -> Starlette:
    """Return the app that serves MCP at `path`, and its health at /healthz and /readyz.

    Raises:
        ConfigurationError: The principals file is wrong.
    """
    settings = runtime.settings
    authentication = BearerAuthentication(settings, open_verifier(settings, runtime.monotonic))
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path="/{path:path}",  # the routes below decide
        stateless_http=settings.http.stateless,
        max_request_body_size=settings.http.body_bytes,
        session_idle_timeout=settings.http.session_idle,
        max_sessions=settings.http.sessions,
        transport_security=security,
    )
    if not settings.http.stateless:
        app = SessionLimit(app, settings.http, runtime.monotonic, runtime.streams)
    check_head = HeadCheck(settings.http, security)
    endpoint = McpEndpoint(app, settings, check_head, authentication, limits, shutdown)
    outer = Starlette(
        routes=[
            Route("/healthz", _healthy),
            Route("/readyz", Readiness(runtime, shutdown)),
            *authentication.routes,
            Route(path, endpoint),
            Route(f"{path}/", endpoint),  # some clients add a slash
        ],
        middleware=_cors(settings.http.browser_origins.split()),
        lifespan=lambda _: server.session_manager.run(),
    )
    outer.router.redirect_slashes = False
    return outer


def _cors(origins: list[str]) -> list[Middleware]:
    """Return the middleware that lets pages of these origins use the server."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["DELETE", "GET", "POST"],
            allow_headers=_BROWSER_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
        )
    ]


class McpEndpoint:
    """Checks each request, then passes it to `app`; rejects a request that fails a check.

    Every request except a stream has a deadline: the time a user has to answer, plus that of two
    tool calls.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        check_head: HeadCheck,
        authentication: BearerAuthentication,
        limits: RequestLimits,
        shutdown: Shutdown,
    ) -> None:
        self._app = app
        self._settings = settings.http
        self._check_head = check_head
        self._authentication = authentication
        self._limits = limits
        self._shutdown = shutdown
        self._timeout = settings.guard.confirm_ttl + 2 * settings.twilio.deadline + _SPARE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI request."""
        # Uvicorn empties the context. Without this, anyio and httpcore would detect the library of
        # the event loop 50 times per request.
        sniffio.current_async_library_cvar.set("asyncio")
        listens = is_stream(scope)
        with self._shutdown.track(is_stream=listens) as cancel_scope:
            if not listens:
                cancel_scope.deadline = anyio.current_time() + self._timeout
            sender = _Sender(scope, send, self._shutdown, cancel_scope)
            with cancel_scope:
                await self._check_and_serve(scope, receive, sender)
            if cancel_scope.cancelled_caught:
                await sender.end(receive)

    async def _check_and_serve(self, scope: Scope, receive: Receive, sender: "_Sender") -> None:
        try:
            self._limits.check_connections()
            await self._check_head(scope)
            user = await self._authentication.authenticate(scope)
            with authenticated(user):
                receive = await read_body(scope, receive, self._settings)
                await self._serve(user, scope, receive, sender)
        except RequestRejected as rejected:
            await rejected.response(scope, receive, sender)
        except ClientDisconnect:
            return

    async def _serve(
        self, user: AuthenticatedUser | None, scope: Scope, receive: Receive, sender: "_Sender"
    ) -> None:
        if self._shutdown.has_begun and method_of(scope) in _BEGINNING:
            raise retry_later(503, "The server is shutting down; nothing was done", _RETRY_AFTER)
        kind, caller = kind_of(scope), principal_or_address(scope)
        with self._limits.concurrent(kind, caller):
            await self._limits.count(kind, caller)
            check_json_rpc(scope)
            self._authentication.require_scope(scope[MESSAGE])
            if user is None or not is_stream(scope):
                await self._app(scope, receive, sender)
                return
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._end_when_void, user, scope, sender)
                await self._app(scope, receive, sender)
                tasks.cancel_scope.cancel()

    async def _end_when_void(
        self, user: AuthenticatedUser, scope: Scope, sender: "_Sender"
    ) -> None:
        """End a stream when its token expires or is revoked."""
        await self._authentication.wait_until_void(user, scope)
        sender.cancel(self._authentication.unauthorized(has_token=True))


class _Sender:
    """Sends a response, tracks how much of it was sent, and counts and logs error statuses."""

    def __init__(
        self, scope: Scope, send: Send, shutdown: Shutdown, cancel_scope: anyio.CancelScope
    ) -> None:
        self._scope = scope
        self._send = send
        self._shutdown = shutdown
        self._cancel_scope = cancel_scope
        self._instead = _CANCELLED
        self._has_begun = self._is_complete = False

    async def __call__(self, message: Message) -> None:
        """Send an ASGI message of the response."""
        if message["type"] == "http.response.start":
            self._observe(message)
        await self._send(message)
        self._has_begun = True
        is_body = message["type"] == "http.response.body"
        self._is_complete = is_body and not message.get("more_body", False)

    def _observe(self, message: Message) -> None:
        if self._shutdown.has_begun:  # so that the client's next connection goes to another replica
            MutableHeaders(scope=message)["connection"] = "close"
        if message["status"] in _ERRORS:
            user: AuthenticatedUser | None = self._scope.get("user")
            telemetry.record_http_refusal(message["status"], user.display_name if user else "")

    def cancel(self, rejected: RequestRejected) -> None:
        """Cancel the request. Respond with `rejected` unless a response has started."""
        self._instead = rejected
        self._cancel_scope.cancel()

    async def end(self, receive: Receive) -> None:
        """Complete the response of a cancelled request."""
        if not self._has_begun:
            await self._instead.response(self._scope, receive, self)
        elif not self._is_complete:
            await self({"type": "http.response.body", "body": b"", "more_body": False})


class Readiness:
    """Reports whether the server is ready for requests, and checks this at most once a second.

    It checks the server's own account only, so that the failure of one principal's account does
    not make the server unready for all.
    """

    def __init__(self, runtime: Runtime, shutdown: Shutdown) -> None:
        self._runtime = runtime
        self._shutdown = shutdown
        self._lock = anyio.Lock()
        self._known = (-math.inf, False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI request."""
        is_ready = not self._shutdown.has_begun and await self._is_ready()
        response = JSONResponse({"ready": is_ready}, 200 if is_ready else 503)
        await response(scope, receive, send)

    async def _is_ready(self) -> bool:
        async with self._lock:
            at, is_ready = self._known
            if anyio.current_time() - at > _READINESS_FRESH:
                is_ready = False
                with anyio.move_on_after(_READINESS_TIMEOUT):
                    is_ready = await self._runtime.is_ready()
                self._known = (anyio.current_time(), is_ready)
        return is_ready


async def _healthy(_request: Request) -> Response:
    """Answer 200 as long as the process runs."""
    return JSONResponse({"alive": True})
