"""Graceful shutdown: requests under way are finished, and no new ones begin."""

from collections.abc import Generator
from contextlib import contextmanager

import anyio
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.http.refusals import refusal

_BROKEN_OFF = refusal(
    504, "It was broken off before it was done: if it is a change, look before you repeat it"
)


class Drain:
    """Knows which requests are under way, and whether new ones may still begin."""

    def __init__(self) -> None:
        self.has_begun = False
        self._calls: set[anyio.CancelScope] = set()
        self._streams: set[anyio.CancelScope] = set()
        self._changed = anyio.Event()

    def begin(self) -> None:
        """From now on, begin nothing."""
        self.has_begun = True

    async def idle(self) -> None:
        """Wait until no request is under way; streams that only listen don't count."""
        while self._calls:
            await self._changed.wait()

    def break_off(self) -> None:
        """Cancel what is still under way. A change that was sent is finished all the same."""
        for scope in (*self._calls, *self._streams):
            scope.cancel()

    @contextmanager
    def under_way(self, *, is_stream: bool) -> Generator[anyio.CancelScope]:
        """Yield what cancels a request, for as long as it is served."""
        group = self._streams if is_stream else self._calls
        scope = anyio.CancelScope()
        group.add(scope)
        try:
            yield scope
        finally:
            group.discard(scope)
            self._changed.set()
            self._changed = anyio.Event()


class Tracked:
    """Serves requests so that `drain` knows of them; none but streams for more than `longest` s."""

    def __init__(self, app: ASGIApp, drain: Drain, longest: float) -> None:
        self._app = app
        self._drain = drain
        self._longest = longest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        is_stream = is_a_stream(scope)
        with self._drain.under_way(is_stream=is_stream) as cut:
            if not is_stream:
                cut.deadline = anyio.current_time() + self._longest
            await run_until(cut, self._app, scope, receive, self._closing(send), _BROKEN_OFF)

    def _closing(self, send: Send) -> Send:
        """`send`, which during shutdown has the client open another connection."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.has_begun:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        return closing


def is_a_stream(scope: Scope) -> bool:
    """Whether a request only listens, by what its head says. The SDK holds the body to that."""
    if scope["method"] == "GET":
        return True
    headers = Headers(scope=scope)
    is_modern = headers.get("mcp-protocol-version") in MODERN_PROTOCOL_VERSIONS
    return is_modern and headers.get("mcp-method") == "subscriptions/listen"


async def run_until(
    cut: anyio.CancelScope,
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    otherwise: ASGIApp,
) -> None:
    """Serve a request by `app` until `cut` is cancelled.

    A response that has begun then ends as if it were complete; else `otherwise` gives one.
    """
    has_begun = is_whole = False

    async def noticing(message: Message) -> None:
        nonlocal has_begun, is_whole
        await send(message)
        has_begun = True
        is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)

    with cut:
        await app(scope, receive, noticing)
    if not cut.cancelled_caught or is_whole:
        return
    if has_begun:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    else:
        await otherwise(scope, receive, send)
