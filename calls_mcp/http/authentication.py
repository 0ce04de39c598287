"""Bearer token authentication and scopes, and the 401 and 403 responses."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol

import anyio
from mcp.server.auth.middleware.auth_context import auth_context_var, get_access_token
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, BearerAuthBackend
from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from pydantic import AnyHttpUrl, TypeAdapter, UrlConstraints
from starlette.authentication import AuthenticationError
from starlette.requests import HTTPConnection
from starlette.routing import Route
from starlette.types import Scope

from calls_mcp.http.request_checks import RequestRejected, retry_later
from calls_mcp.service.grants import MINIMUM_SCOPE, SCOPES, Grant, required_scope
from calls_mcp.settings import Settings
from calls_mcp.tools.catalog import load_operations

_CALLS, _READING = "calls://call/", "fetch_call"
_CHECK_EVERY = 30  # seconds between two checks of a stream's token
_RETRY_AFTER = 10  # seconds

_Url = Annotated[AnyHttpUrl, UrlConstraints(preserve_empty_path=True)]


class TokenVerifier(Protocol):
    """The SDK's interface of a token verifier."""

    async def verify_token(self, token: str) -> Grant | None:
        """Return what a token grants; None if it is not valid.

        Raises:
            AuthenticationError: The token can't be checked at the moment.
        """
        ...


def open_verifier(
    settings: Settings, clock: Callable[[], float] = time.monotonic
) -> TokenVerifier | None:
    """Return the verifier for the configured authentication; None if callers need no token.

    `clock` is monotonic, in seconds.

    Raises:
        ConfigurationError: The principals file is wrong.
    """
    if settings.auth.mode == "none":
        return None
    if settings.auth.mode == "tokens":
        from calls_mcp.http.principals import FileVerifier, PrincipalsFile  # noqa: PLC0415

        return FileVerifier(PrincipalsFile(settings.auth.principals or Path()))
    from calls_mcp.http.oauth import open_jwt_verifier  # noqa: PLC0415  # 0.1 s, for cryptography

    return open_jwt_verifier(settings, clock)


class BearerAuthentication:
    """Authenticates requests and checks the scopes of their tokens.

    Without a `verifier`, requests need no token. `routes` serve the public metadata that tells a
    client where to get a token (RFC 9728).
    """

    def __init__(self, settings: Settings, verifier: TokenVerifier | None) -> None:
        operations = load_operations().values()
        offered = [o for o in operations if o.read_only or not settings.guard.read_only]
        self._required = {operation.name: required_scope(operation) for operation in offered}
        scopes = [scope for scope in SCOPES if scope in self._required.values()]
        self.routes, self._metadata_url = _published(settings, scopes)
        self._backend = BearerAuthBackend(verifier) if verifier else None

    async def authenticate(self, scope: Scope) -> AuthenticatedUser | None:
        """Return the user of a request, by its headers; None if requests need no token.

        Raises:
            RequestRejected: The token is missing or not valid (401), or can't be checked now (503).
        """
        if self._backend is None:
            return None
        connection = HTTPConnection(scope)
        try:
            user = await self._user(connection)
        except AuthenticationError:
            reason = "temporarily_unavailable: The token can't be checked at the moment"
            raise retry_later(503, reason, _RETRY_AFTER) from None
        if user is None:
            raise self.unauthorized(has_token="authorization" in connection.headers)
        scope["user"] = user  # the SDK binds sessions to this user
        return user

    def require_scope(self, message: object) -> None:
        """Check that the request's token has the scope that `message` needs.

        Raises:
            RequestRejected: It does not (403). A client can get a token with the scope, and retry.
        """
        token, scope = get_access_token(), self._required.get(_tool_in(message))
        if token and scope and scope not in token.scopes:
            description = f"This needs a token with the scope {scope}"
            raise self._challenge(403, "insufficient_scope", description, scope)

    def unauthorized(self, *, has_token: bool) -> RequestRejected:
        """Return a 401. Its body is always the same, so that it does not help to guess tokens."""
        error = "invalid_token" if has_token else ""
        return self._challenge(401, error, "A valid bearer token is required", MINIMUM_SCOPE)

    async def wait_until_void(self, user: AuthenticatedUser, scope: Scope) -> None:
        """Wait until the token of a stream expires or is revoked."""
        while True:
            await anyio.sleep(min(_CHECK_EVERY, _seconds_left(user)))
            if _seconds_left(user) <= 0 or not await self._is_good(scope):
                return

    async def _user(self, connection: HTTPConnection) -> AuthenticatedUser | None:
        found = await self._backend.authenticate(connection) if self._backend else None
        return found[1] if found else None

    async def _is_good(self, scope: Scope) -> bool:
        try:
            return await self._user(HTTPConnection(scope)) is not None
        except AuthenticationError:  # it can't be checked at the moment
            return True

    def _challenge(self, status: int, error: str, description: str, scope: str) -> RequestRejected:
        fields = {"error": error} if error else {}
        fields |= {"scope": scope}
        fields |= {"error_description": description} if error else {}
        fields |= {"resource_metadata": self._metadata_url} if self._metadata_url else {}
        challenge = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in fields.items())
        message = f"{error or 'invalid_token'}: {description}"
        return RequestRejected(status, message, {"WWW-Authenticate": challenge})


@contextmanager
def authenticated(user: AuthenticatedUser | None) -> Generator[None]:
    """Make `user` the authenticated user for the SDK and the handlers."""
    before = auth_context_var.set(user)
    try:
        yield
    finally:
        auth_context_var.reset(before)


def _published(settings: Settings, scopes: list[str]) -> tuple[list[Route], str]:
    """Return the routes of the protected-resource metadata, and its URL; only for OAuth."""
    if settings.auth.mode != "oauth":
        return [], ""
    resource = TypeAdapter(_Url).validate_python(settings.auth.resource_url)
    issuer = TypeAdapter(_Url).validate_python(settings.auth.oauth_issuer)
    routes = create_protected_resource_routes(resource, [issuer], scopes, "calls-mcp")
    return routes, str(build_resource_metadata_url(resource))


def _seconds_left(user: AuthenticatedUser) -> float:
    expires = user.access_token.expires_at
    return math.inf if expires is None else max(0.0, expires + 1 - time.time())


def _tool_in(message: object) -> str:
    """Return the tool that a request calls, or that reads its resource; empty if none."""
    match message:
        case {"method": "tools/call", "params": {"name": str(name)}}:
            return name
        case {"method": "resources/read" | "resources/subscribe", "params": {"uri": str(uri)}}:
            return _READING if uri.startswith(_CALLS) else ""
        case _:
            return ""
