"""A good bearer token with every request, and enough scopes; what a request without is answered."""

import math
import time
from dataclasses import dataclass
from typing import Annotated, cast

import anyio
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware, get_access_token
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, BearerAuthBackend
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from pydantic import AnyHttpUrl, TypeAdapter, UrlConstraints
from starlette.authentication import AuthenticationError
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from calls_mcp.http.limits import MESSAGE
from calls_mcp.http.refusals import refusal
from calls_mcp.http.shutdown import is_a_stream, run_until
from calls_mcp.service.grants import LEAST, SCOPES, scope_of
from calls_mcp.settings import Settings
from calls_mcp.tools.catalog import load_operations

_CALLS, _READING = "calls://call/", "fetch_call"
_LOOK_AGAIN = 30  # seconds
_RETRY_AFTER = 10  # seconds

_Url = Annotated[AnyHttpUrl, UrlConstraints(preserve_empty_path=True)]


@dataclass(frozen=True, slots=True)
class Challenge:
    """Words the `WWW-Authenticate` of a refusal.

    `metadata` is the URL of the protected-resource metadata, if there is any.
    """

    metadata: str = ""

    def unauthorized(self, *, has_token: bool) -> Response:
        """401; one fixed body, whatever is wrong."""
        error = "invalid_token" if has_token else ""
        return self._refusal(401, "A valid bearer token is required", error)

    def forbidden(self, scope: str) -> Response:
        """403: the client may come again with a token that has `scope`, too."""
        return self._refusal(403, f"{scope} is required", "insufficient_scope", scope)

    def _refusal(self, status: int, words: str, error: str, scope: str = LEAST) -> Response:
        fields = {"error": error} if error else {}
        fields |= {"scope": scope}
        fields |= {"error_description": words} if error else {}
        fields |= {"resource_metadata": self.metadata} if self.metadata else {}
        challenge = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in fields.items())
        message = f"{error or 'invalid_token'}: {words}"
        return refusal(status, message, {"WWW-Authenticate": challenge})


class Entrance:
    """Passes on what an authenticated principal sends; their streams as long as they are one."""

    def __init__(self, app: ASGIApp, challenge: Challenge, backend: BearerAuthBackend) -> None:
        self._app = AuthContextMiddleware(app)
        self._challenge = challenge
        self._backend = backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        connection = HTTPConnection(scope)
        user = cast("object", connection.user)
        if not isinstance(user, AuthenticatedUser):
            has_token = "authorization" in connection.headers
            await self._challenge.unauthorized(has_token=has_token)(scope, receive, send)
        elif is_a_stream(scope):
            await self._stream(user, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _stream(
        self, user: AuthenticatedUser, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a stream, which must not outlast its token: that may expire, or be revoked."""
        void = self._challenge.unauthorized(has_token=True)
        stream = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_when_void, user, HTTPConnection(scope), stream)
            await run_until(stream, self._app, scope, receive, send, void)
            tasks.cancel_scope.cancel()

    async def _end_when_void(
        self, user: AuthenticatedUser, connection: HTTPConnection, stream: anyio.CancelScope
    ) -> None:
        while not stream.cancel_called:
            await anyio.sleep(min(_LOOK_AGAIN, _lasts(user)))
            if _lasts(user) <= 0 or not await self._is_good(connection):
                stream.cancel()

    async def _is_good(self, connection: HTTPConnection) -> bool:
        try:
            return await self._backend.authenticate(connection) is not None
        except AuthenticationError:  # can't be told just now
            return True


class Gate:
    """Lets in whoever has a good token; without a `verifier`, everybody.

    `routes` are for everybody: what a client reads to find out where to get a token (RFC 9728).
    """

    def __init__(self, settings: Settings, verifier: TokenVerifier | None) -> None:
        operations = load_operations().values()
        offered = [o for o in operations if o.read_only or not settings.guard.read_only]
        self._needs = {operation.name: scope_of(operation) for operation in offered}
        scopes = [scope for scope in SCOPES if scope in self._needs.values()]
        self.routes, metadata = _published(settings, scopes)
        self._challenge = Challenge(metadata)
        self._verifier = verifier

    def guard(self, app: ASGIApp) -> ASGIApp:
        """`app` behind the gate.

        A request without a good token is answered 401, with the challenge that the specification
        describes; and 503 while the issuer's keys can't be had. No body is read for that.
        """
        if self._verifier is None:
            return app
        backend = BearerAuthBackend(self._verifier)
        inside = Entrance(app, self._challenge, backend)
        return AuthenticationMiddleware(inside, backend, on_error=_unavailable)

    def permit(self, app: ASGIApp) -> ASGIApp:
        """`app`, behind the gate and behind what has put a request's `MESSAGE` into its scope.

        A request for a tool beyond the token's scopes is answered 403, with the challenge.
        """

        async def permitted(scope: Scope, receive: Receive, send: Send) -> None:
            needed, token = self._needs.get(_needed(scope[MESSAGE])), get_access_token()
            if needed is None or token is None or needed in token.scopes:
                await app(scope, receive, send)
            else:
                await self._challenge.forbidden(needed)(scope, receive, send)

        return app if self._verifier is None else permitted


def _published(settings: Settings, scopes: list[str]) -> tuple[list[Route], str]:
    """The protected-resource metadata, and its URL; nothing unless there is an issuer."""
    if settings.auth.mode != "oauth":
        return [], ""
    resource = TypeAdapter(_Url).validate_python(settings.auth.resource_url)
    issuer = TypeAdapter(_Url).validate_python(settings.auth.oauth_issuer)
    routes = create_protected_resource_routes(resource, [issuer], scopes, "calls-mcp")
    return routes, str(build_resource_metadata_url(resource))


def _unavailable(_connection: HTTPConnection, _error: AuthenticationError) -> Response:
    """503: whether the token is good can't be told just now."""
    reason = f"temporarily_unavailable: come again in {_RETRY_AFTER} s"
    return refusal(503, reason, {"Retry-After": str(_RETRY_AFTER)})


def _lasts(user: AuthenticatedUser) -> float:
    """The seconds until a user's token expires."""
    expires = user.access_token.expires_at
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
