"""Middleware of the emulated API: the request log and fault injection."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from calls_mcp.emulator.api.endpoints import RequestIds, pairs
from calls_mcp.emulator.api_errors import ApiError
from calls_mcp.emulator.credentials import basic_credentials

MAX_REQUESTS = 10_000
TOO_MANY_REQUESTS = 20429
HTML = "<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"
HANG_UP = "emulator.hang_up"
"""The type of the ASGI message that closes the connection."""

_CLOSING = ("drop", "truncate")
_LOGGED_HEADERS = frozenset({"accept", "content-type", "host", "user-agent"})
_USED_FIELDS: Mapping[str, frozenset[str]] = {
    "drop": frozenset({"after"}),
    "delay": frozenset({"seconds"}),
    "rate-limit": frozenset({"retry_after"}),
    "error": frozenset({"after", "status"}),
    "html": frozenset({"after", "status"}),
    "truncate": frozenset(),
}


# The request log


@dataclass(frozen=True)
class LoggedRequest:
    """A request to the emulated API.

    Attributes:
        method: `GET`, `POST` or `DELETE`.
        path: The path exactly as sent, percent-encoded.
        query: The query string exactly as sent.
        form: The body's parameters, in order.
        headers: The headers that describe the client, by lower-case name.
        username: The user name of its credentials, empty without any.
        status: The HTTP status of the response, 0 without one.
    """

    method: str
    path: str
    query: str
    form: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    username: str
    status: int


class RequestLog:
    """ASGI middleware that keeps the latest requests in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._requests: deque[LoggedRequest] = deque(maxlen=MAX_REQUESTS)

    @property
    def requests(self) -> tuple[LoggedRequest, ...]:
        """The requests, in order of their responses."""
        return tuple(self._requests)

    def clear(self) -> None:
        """Delete all requests."""
        self._requests.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Log a request. The body is read first, so that refused requests are logged completely."""
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        responded = False

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def log_and_send(message: Message) -> None:
            nonlocal responded
            # Log first, because the client can read the log once it has the response.
            if not responded:
                responded = True
                status = cast("int", message.get("status", 0))
                self._requests.append(_logged(request, body, status))
            if message["type"] == HANG_UP:
                await _hang_up(scope, receive)
            else:
                await send(message)

        await self._app(scope, replay, log_and_send)


def _logged(request: Request, body: bytes, status: int) -> LoggedRequest:
    headers = request.headers
    return LoggedRequest(
        method=request.method,
        path=request.scope["raw_path"].decode("latin-1"),
        query=request.scope["query_string"].decode("latin-1"),
        form=pairs(body.decode(errors="replace")),
        headers={name: headers[name] for name in _LOGGED_HEADERS if name in headers},
        username=basic_credentials(headers.get("authorization"))[0],
        status=status,
    )


async def _hang_up(scope: Scope, receive: Receive) -> None:
    scope["state"][HANG_UP]()
    while (await receive())["type"] != "http.disconnect":
        pass


class ClosableConnection(H11Protocol):
    """Uvicorn's protocol, with a function in each scope to close the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Accept the connection."""
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, HANG_UP: transport.close}


# Fault injection


class Fault(BaseModel):
    """A fault, and the requests that it applies to.

    Attributes:
        kind: `drop` closes the connection without a response, `delay` responds late, `rate-limit`
            responds with 429, `error` with an error of the API, `html` with an error page of a
            proxy, and `truncate` with the first half of the normal response.
        after: Whether the request is processed before a `drop`, `error` or `html`.
        seconds: The length of a `delay`.
        status: The HTTP status of an `error` (default 503) or `html` (default 502).
        retry_after: The `Retry-After` of a `rate-limit`, in seconds.
        method: The HTTP method of the requests, None for any.
        requests: The number of requests. Defaults to 1, or to no limit if there is a probability.
        probability: The probability that each of these requests fails.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["drop", "delay", "rate-limit", "error", "html", "truncate"]
    after: bool = False
    seconds: float = Field(default=1, ge=0, le=600)
    status: int | None = Field(default=None, ge=400, le=599)
    retry_after: int = Field(default=1, ge=0)
    method: Literal["GET", "POST", "DELETE"] | None = None
    requests: int | None = Field(default=None, ge=1)
    probability: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _uses_every_field_that_is_set(self) -> Self:
        given = self.model_fields_set - {"kind", "method", "requests", "probability"}
        if unused := sorted(given - _USED_FIELDS[self.kind]):
            raise ValueError(f"a fault of kind {self.kind} does not use {', '.join(unused)}")
        return self

    def response(self) -> ASGIApp | None:
        """Return what responds instead of the application, None to close the connection."""
        if self.kind == "drop":
            return None
        if self.kind == "html":
            status = self.status or 502
            return HTMLResponse(HTML.format(status=status), status)
        if self.kind == "rate-limit":
            error = ApiError(429, TOO_MANY_REQUESTS, "Too Many Requests")
            headers = {"Retry-After": str(self.retry_after)}
            return RequestIds(JSONResponse(error.body(), 429, headers))
        status = self.status or 503
        error = ApiError(status, 20_000 + status, "An injected fault caused this error.")
        return RequestIds(JSONResponse(error.body(), status))


@dataclass
class ArmedFault:
    """A fault, and the number of requests that it still applies to, None for no limit."""

    fault: Fault
    left: int | None


class FaultInjection:
    """ASGI middleware that makes requests fail. The oldest matching fault applies.

    `drop` and `truncate` need `has_connections`: in the same process, there is nothing to close.
    """

    def __init__(self, app: ASGIApp, *, has_connections: bool) -> None:
        self._app = app
        self._has_connections = has_connections
        self.clear()

    def clear(self) -> None:
        """Remove all faults."""
        self._random = Random(0)  # noqa: S311 - repeatable, not secret
        self._armed: list[ArmedFault] = []

    def add(self, fault: Fault) -> None:
        """Add a fault.

        Raises:
            ValueError: The fault closes a connection, and the emulator has no port.
        """
        if fault.kind in _CLOSING and not self._has_connections:
            raise ValueError(f"a {fault.kind} fault needs an emulator that listens on a port")
        left = 1 if fault.requests is None and fault.probability is None else fault.requests
        self._armed.append(ArmedFault(fault, left))

    @property
    def armed(self) -> tuple[ArmedFault, ...]:
        """The active faults."""
        return tuple(self._armed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless a fault applies."""
        fault = self._applicable(cast("str", scope["method"]))
        if fault is None:
            await self._app(scope, receive, send)
        elif fault.kind == "delay":
            try:
                await asyncio.sleep(fault.seconds)
            except asyncio.CancelledError:
                if not self._has_connections:
                    raise
                await send({"type": HANG_UP})  # the server stops
                return
            await self._app(scope, receive, send)
        elif fault.kind == "truncate":
            await self._app(scope, receive, _halved(send))
            await send({"type": HANG_UP})
        else:
            if fault.after:
                await self._app(scope, receive, _discard)
            response = fault.response()
            await (response(scope, receive, send) if response else send({"type": HANG_UP}))

    def _applicable(self, method: str) -> Fault | None:
        """Return the fault that applies to a request, and count the request."""
        for armed in self.armed:
            if armed.fault.method in {None, method} and self._hits(armed):
                return armed.fault
        return None

    def _hits(self, armed: ArmedFault) -> bool:
        if armed.left is not None:
            armed.left -= 1
            if not armed.left:
                self._armed.remove(armed)
        probability = armed.fault.probability
        return probability is None or self._random.random() < probability


async def _discard(_: Message) -> None:
    """Discard a message of the application."""


def _halved(send: Send) -> Send:
    async def send_half(message: Message) -> None:
        if message["type"] == "http.response.body":
            body = cast("bytes", message.get("body", b""))
            message = {**message, "body": body[: len(body) // 2], "more_body": True}
        await send(message)

    return send_half
