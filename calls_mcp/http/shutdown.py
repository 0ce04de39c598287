"""Graceful shutdown: finish the requests in progress, and begin no new ones."""

from collections.abc import Generator
from contextlib import contextmanager

import anyio


class Shutdown:
    """Tracks the requests in progress, and whether the shutdown has begun."""

    def __init__(self) -> None:
        self.has_begun = False
        self._requests: set[anyio.CancelScope] = set()
        self._streams: set[anyio.CancelScope] = set()
        self._changed = anyio.Event()

    def begin(self) -> None:
        """Begin the shutdown."""
        self.has_begun = True

    async def idle(self) -> None:
        """Wait until no request is in progress. Streams don't count."""
        while self._requests:
            await self._changed.wait()

    def cancel_requests(self) -> None:
        """Cancel all requests and streams. A change that was sent is still finished."""
        for scope in (*self._requests, *self._streams):
            scope.cancel()

    @contextmanager
    def track(self, *, is_stream: bool) -> Generator[anyio.CancelScope]:
        """Yield the cancel scope of a request while it is served."""
        group = self._streams if is_stream else self._requests
        scope = anyio.CancelScope()
        group.add(scope)
        try:
            yield scope
        finally:
            group.discard(scope)
            if not group:
                self._changed.set()
                self._changed = anyio.Event()
