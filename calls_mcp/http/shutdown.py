"""Graceful shutdown: requests under way are finished, and no new ones begin."""

from collections.abc import Generator
from contextlib import contextmanager

import anyio


class Shutdown:
    """Knows which requests are under way, and whether new ones may still begin."""

    def __init__(self) -> None:
        self.has_begun = False
        self._requests: set[anyio.CancelScope] = set()
        self._streams: set[anyio.CancelScope] = set()
        self._changed = anyio.Event()

    def begin(self) -> None:
        """From now on, begin nothing."""
        self.has_begun = True

    async def idle(self) -> None:
        """Wait until no request is under way; streams that only listen don't count."""
        while self._requests:
            await self._changed.wait()

    def cancel_requests(self) -> None:
        """Cancel what is still under way. A change that was sent is finished all the same."""
        for scope in (*self._requests, *self._streams):
            scope.cancel()

    @contextmanager
    def track(self, *, is_stream: bool) -> Generator[anyio.CancelScope]:
        """Yield what cancels a request, for as long as it is served."""
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
