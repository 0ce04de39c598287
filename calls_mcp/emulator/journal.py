"""The requests that came in, for tests that prove what was executed."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from calls_mcp.emulator.api import basic_credentials, pairs

KEPT = 10_000
HANG_UP = "emulator.hang_up"
"""The type of a message that an application sends to close the connection."""

_HEADERS = frozenset({"accept", "content-type", "host", "user-agent"})


@dataclass(frozen=True)
class Entry:
    """A request that the emulator has answered.

    Attributes:
        method: `GET`, `POST` or `DELETE`.
        path: The path exactly as it was sent, percent-encoding included.
        query: The query string exactly as it was sent.
        form: The body's parameters, in order.
        headers: The headers that describe the client, by lower-case name.
        username: The user name it authenticated with, empty without one. Never the password.
        status: The HTTP status of the answer, 0 if there was none.
    """

    method: str
    path: str
    query: str
    form: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    username: str
    status: int

    def plain(self) -> Mapping[str, object]:
        """Return the entry as a JSON object."""
        return asdict(self)


class Journal:
    """ASGI middleware that keeps the latest requests in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._entries: deque[Entry] = deque(maxlen=KEPT)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The requests, in the order of their answers."""
        return tuple(self._entries)

    def clear(self) -> None:
        """Forget them."""
        self._entries.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body first, so that a refused request's body is kept, too."""
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        unanswered = True

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def watch(message: Message) -> None:
            nonlocal unanswered
            if unanswered:  # the client may read the journal as soon as it has the answer
                unanswered = False
                self._entries.append(_entry(request, body, cast("int", message.get("status", 0))))
            if message["type"] == HANG_UP:
                await _hang_up(scope, receive)
            else:
                await send(message)

        await self._app(scope, replay, watch)


def _entry(request: Request, body: bytes, status: int) -> Entry:
    headers = request.headers
    return Entry(
        method=request.method,
        path=request.scope["raw_path"].decode("latin-1"),
        query=request.scope["query_string"].decode("latin-1"),
        form=pairs(body.decode(errors="replace")),
        headers={name: headers[name] for name in _HEADERS if name in headers},
        username=basic_credentials(headers.get("authorization"))[0],
        status=status,
    )


async def _hang_up(scope: Scope, receive: Receive) -> None:
    scope["state"][HANG_UP]()
    while (await receive())["type"] != "http.disconnect":
        pass


class Connection(H11Protocol):
    """Uvicorn's protocol, with a way to close the connection in the state of each scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take the connection on."""
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, HANG_UP: transport.close}
