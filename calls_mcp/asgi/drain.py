"""The end of a server: nothing new is begun, and what is under way is finished."""

from collections.abc import Generator
from contextlib import contextmanager

import anyio
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp import cutting
from calls_mcp.asgi import refusals


class Drain:
    """Knows what is under way, and lets nothing new begin once it is `begin`-ed."""

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
        """What cancels a request while it is served."""
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
    """Serves requests so that `drain` knows of them, and none but a stream for ever.

    `longest` is what one may take in seconds.
    """

    def __init__(self, app: ASGIApp, drain: Drain, longest: float) -> None:
        self._app = app
        self._drain = drain
        self._longest = longest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        is_stream = cutting.is_stream(scope)
        with self._drain.under_way(is_stream=is_stream) as cut:
            if not is_stream:
                cut.deadline = anyio.current_time() + self._longest
            last = self._last_of_its_connection(send)
            await cutting.run(self._app, scope, receive, last, cut, refusals.broken_off())

    def _last_of_its_connection(self, send: Send) -> Send:
        """`send`, which at the end has the client come again by another connection."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.has_begun:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        return closing
