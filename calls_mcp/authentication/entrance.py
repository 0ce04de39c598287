"""What a request without a good token, or without enough scopes, is answered."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import anyio
from mcp.server.auth.middleware.auth_context import get_access_token
from starlette.authentication import AuthenticationBackend, AuthenticationError
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from calls_mcp.authentication.scopes import LEAST

MESSAGE = "calls_mcp.message"
"""The key of a scope that has the JSON-RPC message in the request's body, or None."""

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
        error = {"error": "invalid_token"} if has_token else {}
        return self._refusal(401, "invalid_token", "A valid bearer token is required", error)

    def forbidden(self, scope: str) -> Response:
        """403: the client may come again with a token that has `scope`, too."""
        error = {"error": "insufficient_scope"}
        return self._refusal(403, "insufficient_scope", f"{scope} is required", error, scope)

    def _refusal(
        self, status: int, code: str, words: str, error: Mapping[str, str], scope: str = LEAST
    ) -> Response:
        told = {**error, "scope": scope}
        if error:
            told["error_description"] = words
        if self.metadata:
            told["resource_metadata"] = self.metadata
        challenge = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in told.items())
        body = {"error": code, "error_description": words}
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
        if get_access_token() is None:
            has_token = "authorization" in connection.headers
            await self._challenge.unauthorized(has_token=has_token)(scope, receive, send)
            return
        if scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_when_void, connection, tasks.cancel_scope)
            await self._app(scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _end_when_void(self, connection: HTTPConnection, stream: anyio.CancelScope) -> None:
        """A stream would outlast its token, which may expire or be revoked."""
        while True:
            await anyio.sleep(min(_LOOK_AGAIN, _lasts()))
            if not await self._is_good(connection):
                stream.cancel()
                return

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
        needed = self._challenge.needs.get(_tool(scope.get(MESSAGE)))
        token = get_access_token()
        if needed is None or token is None or needed in token.scopes:
            await self._app(scope, receive, send)
        else:
            await self._challenge.forbidden(needed)(scope, receive, send)


def unavailable(_connection: HTTPConnection, _error: AuthenticationError) -> Response:
    """503: whether the token is good can't be told just now."""
    body = {"error": "temporarily_unavailable"}
    return JSONResponse(body, 503, {"Retry-After": str(_RETRY_AFTER)})


def _lasts() -> float:
    """The seconds until the token in hand expires."""
    token = get_access_token()
    expires = token.expires_at if token else None
    return math.inf if expires is None else max(0.0, expires + 1 - time.time())


def _tool(message: object) -> str:
    """The tool that a request calls, if it does."""
    match message:
        case {"method": "tools/call", "params": {"name": str(name)}}:
            return name
        case _:
            return ""
