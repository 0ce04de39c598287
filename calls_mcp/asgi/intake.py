"""What a request may be: from whom it says it is, how large, how deep, how slow."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import anyio
from mcp.server.transport_security import (
    RequestBodyLimitMiddleware,
    TransportSecurityMiddleware,
    TransportSecuritySettings,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.asgi import refusals
from calls_mcp.authentication.entrance import MESSAGE

_DEEPEST = 32
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
    """Refuses a request for what its head says, before anything is asked or read."""

    def __init__(
        self,
        app: ASGIApp,
        bounds: Bounds,
        security: TransportSecuritySettings,
        is_crowded: Callable[[], bool],
    ) -> None:
        self._app = app
        self._bounds = bounds
        self._security = TransportSecurityMiddleware(security)
        self._is_crowded = is_crowded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app = await self._refusal(scope) or self._app
        await app(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        request = Request(scope)
        if self._is_crowded():
            return refusals.crowded()
        refusal = await self._security.validate_request(request, request.method == "POST")
        if refusal is None and _size_of_head(scope) > self._bounds.head:
            refusal = refusals.head_too_large()
        if refusal is None and request.method not in self._bounds.methods:
            refusal = refusals.not_allowed(self._bounds.methods)
        return refusal


class Reader:
    """Reads each request as a whole before `app` sees it, with its `MESSAGE` in the scope."""

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        self._app = app
        self._patience = bounds.patience
        self._whole = RequestBodyLimitMiddleware(self._understood, bounds.body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._whole(scope, _in_time(receive, self._patience), send)
        except _TooSlow:
            await refusals.too_slow()(scope, receive, send)

    async def _understood(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decode the body, which comes in one piece, and pass the request on."""
        first = await receive()
        if first["type"] != "http.request":
            return
        try:
            scope[MESSAGE] = _decoded(first["body"]) if scope["method"] == "POST" else None
        except ValueError as wrong:
            await refusals.unreadable(str(wrong))(scope, receive, send)
            return
        told = False

        async def again() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return first

        await self._app(scope, again, send)


def is_reply(message: object) -> bool:
    """Whether a message goes on with something that was begun: an answer, or a notification."""
    match message:
        case {"method": str(method)}:
            return method.startswith("notifications/")
        case dict():
            return "id" in message
        case _:
            return False


class _TooSlow(Exception):
    """The client did not send its request in time."""


def _in_time(receive: Receive, patience: float) -> Receive:
    """`receive`, which waits no longer for the body than until `patience` seconds from now."""
    deadline = anyio.current_time() + patience
    is_whole = False

    async def receive_in_time() -> Message:
        nonlocal is_whole
        if is_whole:
            return await receive()
        with anyio.move_on_at(deadline):
            message = await receive()
            is_whole = not message.get("more_body", False)
            return message
        raise _TooSlow

    return receive_in_time


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
        message: object = json.loads(body)
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
