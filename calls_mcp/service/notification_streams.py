"""The open streams on which HTTP sessions receive notifications."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

import anyio


class NotificationStreams:
    """Tracks which sessions have an open stream. A session may have several for a moment."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._changed = anyio.Event()

    def is_open(self, session: str) -> bool:
        """Return whether the session can receive notifications now."""
        return session in self._open

    @contextmanager
    def opened(self, session: str) -> Generator[None]:
        """Register a stream of the session until the context exits."""
        self._open[session] += 1
        self._notify()
        try:
            yield
        finally:
            self._open[session] -= 1
            self._open += Counter()  # drops sessions without a stream
            self._notify()

    async def changed(self) -> None:
        """Wait until a stream opens or closes."""
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
