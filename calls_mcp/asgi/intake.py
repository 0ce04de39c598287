"""What a request may be: from whom it says it is, how large, how deep, how slow."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.transport_security import (
    TransportSecurityMiddleware,
    TransportSecuritySettings,
)
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp import telemetry
from calls_mcp.asgi import refusals
from calls_mcp.authentication.entrance import MESSAGE
from calls_mcp.connections import Crowd

_DEEPEST = 32
_WITHOUT_CASE = frozenset({b"host", b"origin", b"content-type"})
_METHODS = frozenset({"POST", "GET", "DELETE"})


@dataclass(frozen=True, slots=True)
class Bounds:
    """The largest head and body of a request in bytes, and the seconds that its body may take.

    Without `sessions`, only POST has a use.
    """

    head: int
    body: int
    patience: float
    sessions: bool = True

    @property
    def methods(self) -> frozenset[str]:
        """The HTTP methods that the endpoint has a use for."""
        return _METHODS if self.sessions else frozenset({"POST"})


class Threshold:
    """Refuses a request for what its head says, before anything is asked or read.

    What is refused here or within is told.
    """

    def __init__(
        self,
        app: ASGIApp,
        bounds: Bounds,
        security: TransportSecuritySettings,
        crowd: Crowd,
    ) -> None:
        self._app = app
        self._bounds = bounds
        self._security = TransportSecurityMiddleware(security)
        self._crowd = crowd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""

        async def noticing(message: Message) -> None:
            status = message.get("status", HTTPStatus.OK)
            if status >= HTTPStatus.BAD_REQUEST:
                telemetry.refused(status, _name(scope))
            await send(message)

        scope["headers"] = [*_normal(scope["headers"])]
        app = await self._refusal(scope) or self._app
        await app(scope, receive, noticing)

    async def _refusal(self, scope: Scope) -> Response | None:
        request = Request(scope)
        if self._crowd.is_too_large:
            return refusals.crowded()
        if stranger := await self._security.validate_request(request):
            return refusals.stranger(stranger.status_code)
        if _size_of_head(scope) > self._bounds.head:
            return refusals.head_too_large()
        if request.method not in self._bounds.methods:
            return refusals.not_allowed(self._bounds.methods)
        if {"content-length", "transfer-encoding"} <= {*request.headers}:
            return refusals.unreadable("the body has two lengths")
        type_ = request.headers.get("content-type", "")
        is_wrong = request.method == "POST" and not type_.startswith("application/json")
        return refusals.wrong_type() if is_wrong else None


class Reader:
    """Reads each request as a whole before `app` sees it, with its `MESSAGE` in the scope."""

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        self._app = app
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        try:
            with anyio.fail_after(self._bounds.patience):
                body = await self._read(Request(scope, receive))
            scope[MESSAGE] = _decoded(body) if scope["method"] == "POST" else None
        except TimeoutError:
            await refusals.too_slow()(scope, receive, send)
        except _TooLargeError:
            await refusals.too_large(self._bounds.body)(scope, receive, send)
        except ValueError as wrong:
            await refusals.unreadable(str(wrong))(scope, receive, send)
        except ClientDisconnect:
            return
        else:
            await self._app(scope, _again(body, receive), send)

    async def _read(self, request: Request) -> bytes:
        if int(request.headers.get("content-length", 0)) > self._bounds.body:
            raise _TooLargeError
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._bounds.body:
                raise _TooLargeError
        return bytes(body)


class _TooLargeError(Exception):
    """The body of a request is larger than it may be."""


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that tells the body, and then what comes later."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _name(scope: Scope) -> str:
    """Whom a request is from, as far as that was found out."""
    user = cast("object", scope.get("user"))
    return user.display_name if isinstance(user, AuthenticatedUser) else ""


def _normal(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The headers as the SDK compares them; without the one that asks for what nobody keeps."""
    for name, value in headers:
        if name != b"last-event-id":
            yield name, value.lower() if name in _WITHOUT_CASE else value


def _size_of_head(scope: Scope) -> int:
    headers = cast("list[tuple[bytes, bytes]]", scope["headers"])
    line = len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in headers)


def _decoded(body: bytes) -> object:
    """The JSON in a body.

    Raises:
        ValueError: It is none, or nested too deeply.
    """
    try:
        message: object = json.loads(body.decode())
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except ValueError:
        raise ValueError("the body is not JSON") from None
    level: list[object] = [message]
    for _ in range(_DEEPEST):
        level = [child for value in level for child in _children(value)]
        if not level:
            return message
    raise ValueError("the JSON is nested too deeply")


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()
