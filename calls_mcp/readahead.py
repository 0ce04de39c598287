"""The next page of a list, read while the last is taken in, for a program that walks.

As file systems read ahead: only for whoever has already gone on once without a pause. A model that
thinks between two pages, and whoever wants but the first, cost the API nothing.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass

from calls_mcp.failures import Reply
from calls_mcp.wire import Request

_AT_ONCE = 1.0  # seconds; what was read so long ago is not told as what is so now
_KEPT = 2.0  # seconds, for which nobody has asked for it
_MOST_WALKS = 16

_Reading = asyncio.Task[Reply]


@dataclass(frozen=True, slots=True, eq=False)
class _Page:
    expected_at: float
    reading: _Reading | None
    end: asyncio.TimerHandle

    def forget(self) -> None:
        self.end.cancel()
        if self.reading is not None:
            self.reading.cancel()


class ReadAhead:
    """Pages that may be asked for next, until a second is over or something is changed.

    `read` asks the API once; `clock` is monotonic, in seconds.
    """

    def __init__(
        self, read: Callable[[Request], Coroutine[None, None, Reply]], clock: Callable[[], float]
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
        if self.expects(request) and self._pages[request].reading is not None:
            return  # somebody else walks the same list, or this walk has gone back by a page
        self._forget(request)
        while len(self._pages) >= _MOST_WALKS:
            self._forget(next(iter(self._pages)))
        reading = self._begin(request) if read_now else None
        end = asyncio.get_running_loop().call_later(_KEPT, self._forget, request)
        self._pages[request] = _Page(self._clock(), reading, end)
        if reading is not None:
            await asyncio.sleep(0)  # so that it is sent before anything else is done

    async def take(self, request: Request) -> Reply | None:
        """The answer to `request` if it was read ahead, or is being read.

        Raises:
            InvocationError: It could not be read.
        """
        if not self.expects(request):
            self._forget(request)
            return None
        page = self._pages.pop(request)
        page.end.cancel()
        return None if page.reading is None else await page.reading

    def drop(self) -> None:
        """Forget what was read, for something has changed."""
        for request in [*self._pages]:
            self._forget(request)

    def _forget(self, request: Request) -> None:
        if page := self._pages.pop(request, None):
            page.forget()

    def _begin(self, request: Request) -> _Reading:
        # In a context of nobody's: the request that is the reason for it will have ended.
        reading = asyncio.create_task(self._read(request), context=Context())
        reading.add_done_callback(_note)
        return reading


def _note(reading: _Reading) -> None:
    """Whoever asks for it is told what went wrong; if nobody does, it went wrong for nobody."""
    if not reading.cancelled():
        reading.exception()
