"""What a request without a good token, or without enough scopes, is answered."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import anyio
from mcp.server.auth.middleware.auth_context import auth_context_var, get_access_token
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp_types import INVALID_REQUEST
from starlette.authentication import AuthenticationBackend, AuthenticationError
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from calls_mcp import cutting
from calls_mcp.authentication.scopes import LEAST

MESSAGE = "calls_mcp.message"
"""The key of a scope that has the JSON-RPC message in the request's body, or None."""

_CALLS, _READING = "calls://call/", "fetch_call"
_LOOK_AGAIN = 30  # seconds
_RETRY_AFTER = 10  # seconds


@dataclass(frozen=True, slots=True)
class Challenge:
    """Words the `WWW-Authenticate` of a refusal.

    `needs` has the scope that each tool on offer needs; `metadata` is the URL of the
    protected-resource metadata, if there is any.
    """

    needs: Mapping[str, str]
    metadata: str = ""

    def unauthorized(self, *, has_token: bool) -> Response:
        """401; one fixed body, whatever is wrong."""
        error = "invalid_token" if has_token else ""
        return self._refusal(401, "A valid bearer token is required", error)

    def forbidden(self, scope: str) -> Response:
        """403: the client may come again with a token that has `scope`, too."""
        return self._refusal(403, f"{scope} is required", "insufficient_scope", scope)

    def _refusal(self, status: int, words: str, error: str, scope: str = LEAST) -> Response:
        code = error or "invalid_token"
        fields = {"error": error} if error else {}
        fields |= {"scope": scope}
        fields |= {"error_description": words} if error else {}
        fields |= {"resource_metadata": self.metadata} if self.metadata else {}
        challenge = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in fields.items())
        body = error_body(f"{code}: {words}")
        return JSONResponse(body, status, {"WWW-Authenticate": challenge})


class Entrance:
    """Passes on what an authenticated principal sends; their streams as long as they are one."""

    def __init__(self, app: ASGIApp, challenge: Challenge, backend: AuthenticationBackend) -> None:
        self._app = app
        self._challenge = challenge
        self._backend = backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the lifespan, by ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        # The request's own: the context may be left over from another one on the same connection.
        user = cast("object", connection.user)
        if not isinstance(user, AuthenticatedUser):
            has_token = "authorization" in connection.headers
            await self._challenge.unauthorized(has_token=has_token)(scope, receive, send)
            return
        before = auth_context_var.set(user)
        try:
            app = self._listened_to if cutting.is_stream(scope) else self._app
            await app(scope, receive, send)
        finally:
            auth_context_var.reset(before)

    async def _listened_to(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a stream, which must not outlast its token: that may expire, or be revoked."""
        void = self._challenge.unauthorized(has_token=True)
        stream = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_when_void, HTTPConnection(scope), stream)
            await cutting.run(self._app, scope, receive, send, stream, void)
            tasks.cancel_scope.cancel()

    async def _end_when_void(self, connection: HTTPConnection, stream: anyio.CancelScope) -> None:
        while not stream.cancel_called:
            await anyio.sleep(min(_LOOK_AGAIN, _lasts()))
            if _lasts() <= 0 or not await self._is_good(connection):
                stream.cancel()

    async def _is_good(self, connection: HTTPConnection) -> bool:
        try:
            return await self._backend.authenticate(connection) is not None
        except AuthenticationError:  # can't be told just now
            return True


class Permit:
    """Passes on what the token in hand is enough for, by the message that is asked for."""

    def __init__(self, app: ASGIApp, challenge: Challenge) -> None:
        self._app = app
        self._challenge = challenge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the lifespan, by ASGI."""
        needed = self._challenge.needs.get(_needed(scope.get(MESSAGE)))
        token = get_access_token()
        if needed is None or token is None or needed in token.scopes:
            await self._app(scope, receive, send)
        else:
            await self._challenge.forbidden(needed)(scope, receive, send)


def unavailable(_connection: HTTPConnection, _error: AuthenticationError) -> Response:
    """503: whether the token is good can't be told just now."""
    reason = f"temporarily_unavailable: come again in {_RETRY_AFTER} s"
    return JSONResponse(error_body(reason), 503, {"Retry-After": str(_RETRY_AFTER)})


def error_body(message: str, code: int = INVALID_REQUEST) -> dict[str, object]:
    """A refusal as JSON-RPC words it: clients of MCP show the message of that, and nothing else."""
    return {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}


def _lasts() -> float:
    """The seconds until the token in hand expires."""
    token = get_access_token()
    expires = token.expires_at if token else None
    return math.inf if expires is None else max(0.0, expires + 1 - time.time())


def _needed(message: object) -> str:
    """The tool that a request calls, or reads a resource by, if it does."""
    match message:
        case {"method": "tools/call", "params": {"name": str(name)}}:
            return name
        case {"method": "resources/read" | "resources/subscribe", "params": {"uri": str(uri)}}:
            return _READING if uri.startswith(_CALLS) else ""
        case _:
            return ""
