"""The streams on which sessions can be notified, as they open and close."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

import anyio


class Streams:
    """Which sessions have a stream open; one that opens may overlap with the one before it."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._changed = anyio.Event()

    def is_open(self, session: str) -> bool:
        """Return whether a session could be notified now."""
        return session in self._open

    @contextmanager
    def opened(self, session: str) -> Generator[None]:
        """Register a stream of a session, for as long as it is open."""
        self._open[session] += 1
        self._change()
        try:
            yield
        finally:
            self._open[session] -= 1
            self._open += Counter()  # without those that have none
            self._change()

    async def changed(self) -> None:
        """Wait until a stream has opened or closed."""
        await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
