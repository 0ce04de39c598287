"""The gate in front of the MCP app: a good bearer token with every request, and enough scopes."""

import time
from collections.abc import Callable, Sequence
from typing import Annotated

from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend
from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from pydantic import AnyHttpUrl, TypeAdapter, UrlConstraints
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from calls_mcp.authentication.entrance import Challenge, Entrance, Permit, unavailable
from calls_mcp.authentication.grant import Grant
from calls_mcp.authentication.scopes import SCOPES, scope_of
from calls_mcp.catalog import load_operations
from calls_mcp.settings import Settings

_Url = Annotated[AnyHttpUrl, UrlConstraints(preserve_empty_path=True)]


class Gate:
    """Lets in whoever has a good token; without a verifier, everybody.

    `routes` are for everybody: what a client reads to find out where to get a token (RFC 9728).
    """

    def __init__(
        self,
        verifier: TokenVerifier | None,
        challenge: Challenge,
        routes: Sequence[Route] = (),
    ) -> None:
        self.routes = (*routes,)
        self._verifier = verifier
        self._challenge = challenge

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for a token."""
        return self._verifier is None

    async def granted(self, token: str) -> Grant | None:
        """What a token that came in another way than a request's head grants now, if anything.

        Raises:
            AuthenticationError: That can't be told just now.
        """
        found = await self._verifier.verify_token(token) if self._verifier else None
        return found if isinstance(found, Grant) and found.ends_at > time.time() else None

    def guard(self, app: ASGIApp) -> ASGIApp:
        """`app` behind the gate. Its lifespan passes through.

        A request without a good token is answered 401, with the challenge that the specification
        describes; and 503 while the issuer's keys can't be had. No body is read for that.
        """
        if self._verifier is None:
            return app
        backend = BearerAuthBackend(self._verifier)
        inside = Entrance(app, self._challenge, backend)
        return AuthenticationMiddleware(inside, backend, on_error=unavailable)

    def permit(self, app: ASGIApp) -> ASGIApp:
        """`app`, behind the gate and behind what has put a request's `MESSAGE` into its scope.

        A request for a tool beyond the token's scopes is answered 403, with the challenge.
        """
        return app if self._verifier is None else Permit(app, self._challenge)


def open_gate(settings: Settings, clock: Callable[[], float] = time.monotonic) -> Gate:
    """The gate that the settings describe; `clock` gives seconds that never go back.

    Raises:
        ConfigurationError: The file of principals is wrong.
    """
    operations = load_operations().values()
    offered = [o for o in operations if o.read_only or not settings.guard.read_only]
    needs = {operation.name: scope_of(operation) for operation in offered}
    if settings.auth.mode == "none":
        return Gate(None, Challenge(needs))
    if settings.auth.mode == "tokens":
        from calls_mcp.authentication.tokens import open_tokens  # noqa: PLC0415

        return Gate(open_tokens(settings), Challenge(needs))
    from calls_mcp.authentication.oauth import open_issuer  # noqa: PLC0415

    routes, metadata = _published(settings, [s for s in SCOPES if s in needs.values()])
    return Gate(open_issuer(settings, clock), Challenge(needs, metadata), routes)


def _published(settings: Settings, scopes: list[str]) -> tuple[list[Route], str]:
    """The protected-resource metadata, and its URL."""
    resource = TypeAdapter(_Url).validate_python(settings.auth.resource_url)
    issuer = TypeAdapter(_Url).validate_python(settings.auth.oauth_issuer)
    routes = create_protected_resource_routes(resource, [issuer], scopes, "calls-mcp")
    return routes, str(build_resource_metadata_url(resource))
