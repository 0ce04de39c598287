"""What a request without a good token, or without enough scopes, is answered."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mcp.server.auth.middleware.auth_context import get_access_token
from starlette.authentication import AuthenticationError
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.authentication.scopes import LEAST

_LARGEST = 4 * 2**20  # bytes of a body that are looked at; the app refuses what is larger
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
    """Passes on what an authenticated principal may ask for."""

    def __init__(self, app: ASGIApp, challenge: Challenge) -> None:
        self._app = app
        self._challenge = challenge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the lifespan, by ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        token = get_access_token()
        if token is None:
            has_token = "authorization" in HTTPConnection(scope).headers
            await self._challenge.unauthorized(has_token=has_token)(scope, receive, send)
            return
        beyond = {*self._challenge.needs.values()}.difference(token.scopes)
        if beyond and scope["method"] == "POST":
            body, receive = await _read(receive)
            needed = self._challenge.needs.get(_tool(body))
            if needed in beyond:
                await self._challenge.forbidden(needed)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def unavailable(_connection: HTTPConnection, _error: AuthenticationError) -> Response:
    """503: whether the token is good can't be told just now."""
    body = {"error": "temporarily_unavailable"}
    return JSONResponse(body, 503, {"Retry-After": str(_RETRY_AFTER)})


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """A request's body, and a `receive` that tells it again."""
    told: list[Message] = []
    body = bytearray()
    while not told or (told[-1].get("more_body") and len(body) <= _LARGEST):
        told.append(await receive())
        body += told[-1].get("body", b"")
    again: Iterator[Message] = iter(told)

    async def retold() -> Message:
        return next(again, None) or await receive()

    return bytes(body), retold


def _tool(body: bytes) -> str:
    """The tool that a request calls, if it does; what can't be read, the app refuses."""
    try:
        message: object = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    match message:
        case {"method": "tools/call", "params": {"name": str(name)}}:
            return name
        case _:
            return ""
