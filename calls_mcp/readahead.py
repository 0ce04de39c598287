"""The next page of a list, read while the last is taken in, for a program that walks.

As file systems read ahead: only for whoever has already gone on once without a pause. A model that
thinks between two pages, and whoever wants but the first, cost the API nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass

from calls_mcp.errors import InvocationError
from calls_mcp.failures import Reply
from calls_mcp.wire import Request

_AT_ONCE = 1.0  # seconds; what was read so long ago is not told as what is so now
_MOST_WALKS = 16


@dataclass(frozen=True, slots=True, eq=False)
class _Page:
    expected_at: float
    reading: asyncio.Task[Reply | None] | None


class ReadAhead:
    """Pages that may be asked for next, until a second is over or something is changed.

    `read` asks the API once; `clock` is monotonic, in seconds.
    """

    def __init__(
        self, read: Callable[[Request], Awaitable[Reply]], clock: Callable[[], float]
    ) -> None:
        self._read = read
        self._clock = clock
        self._pages: dict[Request, _Page] = {}

    def expects(self, request: Request) -> bool:
        """Whether `request` follows, without a pause, what was told last."""
        page = self._pages.get(request)
        return page is not None and self._clock() - page.expected_at < _AT_ONCE

    async def expect(self, request: Request, *, read_now: bool) -> None:
        """Be ready for `request`, and `read_now` what it asks for, or only if it comes."""
        self._forget(request)
        while len(self._pages) >= _MOST_WALKS:
            self._forget(next(iter(self._pages)))
        reading = self._begin(request) if read_now else None
        self._pages[request] = _Page(self._clock(), reading)
        asyncio.get_running_loop().call_later(_AT_ONCE, self._sweep)
        if reading is not None:
            await asyncio.sleep(0)  # so that it is sent before anything else is done

    async def take(self, request: Request) -> Reply | None:
        """The answer to `request` if it was read ahead, or is being read."""
        if not self.expects(request):
            self._forget(request)
            return None
        page = self._pages.pop(request)
        return None if page.reading is None else await page.reading

    def drop(self) -> None:
        """Forget what was read, for something changes."""
        for request in [*self._pages]:
            self._forget(request)

    def _begin(self, request: Request) -> asyncio.Task[Reply | None]:
        # In a context of nobody's: the request that is the reason for it will have ended.
        return asyncio.create_task(self._answer(request), context=Context())

    def _sweep(self) -> None:
        for request in [request for request in self._pages if not self.expects(request)]:
            self._forget(request)

    def _forget(self, request: Request) -> None:
        page = self._pages.pop(request, None)
        if page is not None and page.reading is not None:
            page.reading.cancel()

    async def _answer(self, request: Request) -> Reply | None:
        try:
            return await self._read(request)
        except InvocationError:
            return None  # whoever asks for it asks the API anew, and is told what is wrong
