"""The end of a server: nothing new is begun, and what is under way is finished."""

from collections.abc import Generator
from contextlib import contextmanager

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.asgi import refusals
from calls_mcp.asgi.intake import is_reply
from calls_mcp.authentication.entrance import MESSAGE


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
    def under_way(self, method: str) -> Generator[anyio.CancelScope]:
        """Where a request is served."""
        group = self._streams if method == "GET" else self._calls
        with anyio.CancelScope() as scope:
            group.add(scope)
            try:
                yield scope
            finally:
                group.discard(scope)
                self._changed.set()
                self._changed = anyio.Event()


class Draining:
    """Serves requests as long as `drain` has not begun, and afterwards what ends one of them."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._drain.has_begun and not is_reply(scope[MESSAGE]):
            await refusals.draining()(scope, receive, send)
            return
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        with self._drain.under_way(scope["method"]) as under_way:
            await self._app(scope, receive, watched)
        if not under_way.cancelled_caught:
            return
        if has_started:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await refusals.broken_off()(scope, receive, send)
