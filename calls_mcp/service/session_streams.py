"""The streams on which sessions can be told of something, as they come and go."""

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
        """Whether a session could be told of something now."""
        return session in self._open

    @contextmanager
    def opened(self, session: str) -> Generator[None]:
        """A stream of a session, for as long as it is open."""
        self._open[session] += 1
        self._change()
        try:
            yield
        finally:
            self._open[session] -= 1
            self._open += Counter()  # without those that have none
            self._change()

    async def changed(self) -> None:
        """Wait until a stream has come or gone."""
        await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
