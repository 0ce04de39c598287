"""What came in, for tests that prove what was executed."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.emulator.account import basic_credentials

KEPT = 10_000
HEADERS = frozenset({"accept", "content-type", "host", "user-agent"})


@dataclass(frozen=True)
class Entry:
    """A request that the emulator has answered.

    Attributes:
        method: `GET`, `POST` or `DELETE`.
        path: The path exactly as it was sent, percent-encoding included.
        query: The query string exactly as it was sent.
        form: The body's parameters, in order.
        headers: The headers that tell something about the client, by lower-case name.
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


def plain(entry: Entry) -> Mapping[str, object]:
    """The entry as a JSON object."""
    return {
        "method": entry.method,
        "path": entry.path,
        "query": entry.query,
        "form": entry.form,
        "headers": dict(entry.headers),
        "username": entry.username,
        "status": entry.status,
    }


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
        """Read the whole body first, so that what the application refuses unread is kept, too."""
        body = await _body(receive)
        if body is None:  # broken off: half of a request is none
            return
        unanswered = True

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def watch(message: Message) -> None:
            nonlocal unanswered
            if unanswered:  # the client may look into the journal as soon as it has the answer
                unanswered = False
                self._entries.append(_entry(scope, body, cast("int", message.get("status", 0))))
            await send(message)

        await self._app(scope, replay, watch)


async def _body(receive: Receive) -> bytes | None:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += cast("bytes", message.get("body", b""))
        more = cast("bool", message.get("more_body", False))
    return bytes(body)


def _entry(scope: Scope, body: bytes, status: int) -> Entry:
    raw = cast("list[tuple[bytes, bytes]]", scope["headers"])
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
    return Entry(
        method=cast("str", scope["method"]),
        path=cast("bytes", scope["raw_path"]).decode("latin-1"),
        query=cast("bytes", scope["query_string"]).decode("latin-1"),
        form=tuple(parse_qsl(body.decode(errors="replace"), keep_blank_values=True)),
        headers=MappingProxyType({name: headers[name] for name in HEADERS & headers.keys()}),
        username=basic_credentials(headers.get("authorization"))[0],
        status=status,
    )
