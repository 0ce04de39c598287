"""Server-sent events: one look at what changes, for however many tabs."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from calls_mcp.console.browser_sessions import Session, session_of
from calls_mcp.console.context import House

Look = Callable[[], Awaitable[str]]
"""Tells a mark that is another whenever a room has changed."""

_MOST = 500  # listeners
_BREATH = 15  # seconds until a line says that there is nothing new


class News:
    """Looks at rooms every `interval` seconds while anybody listens there.

    `looks` tells each room's mark.
    """

    def __init__(self, house: House, looks: dict[str, Look], interval: float) -> None:
        self._house = house
        self._looks = looks
        self._interval = interval
        self._listeners: Counter[str] = Counter()
        self._marks: dict[str, str] = {}
        self._changed = anyio.Event()
        self._wanted = {room: anyio.Event() for room in looks}
        self._has_ended = False

    async def events(self, request: Request) -> Response:
        """The stream of one tab."""
        room = request.query_params.get("topic", "")
        if room not in self._looks:
            raise HTTPException(404, "There is no news of that.")
        if self._listeners.total() >= _MOST:
            raise HTTPException(503, "Too many tabs listen already.")
        told = self._told(room, session_of(request))
        return StreamingResponse(told, media_type="text/event-stream")

    async def run(self) -> None:
        """Look, for ever; a slow look at one room delays no other."""
        async with anyio.create_task_group() as tasks:
            for room, look in self._looks.items():
                tasks.start_soon(self._watch, room, look)

    async def _watch(self, room: str, look: Look) -> None:
        while True:
            await self._wanted[room].wait()
            mark = await look()
            if self._marks.get(room) != mark:
                self._marks[room] = mark
                self._wake()
            if not self._listeners[room]:
                self._wanted[room] = anyio.Event()
            await anyio.sleep(self._interval)

    def end(self) -> None:
        """Let all listeners go."""
        self._has_ended = True
        self._wake()

    async def _told(self, room: str, session: Session) -> AsyncIterator[str]:
        known, sessions = "", self._house.sessions
        with self._listening(room):
            while not self._has_ended and await sessions.lasts(session):
                changed, mark = self._changed, self._marks.get(room, "")
                if mark != known:
                    known = mark
                    yield f"data: {json.dumps({'mark': mark})}\n\n"
                    continue
                with anyio.move_on_after(_BREATH) as quiet:
                    await changed.wait()
                if quiet.cancelled_caught:
                    yield ":\n\n"

    @contextmanager
    def _listening(self, room: str) -> Generator[None]:
        self._listeners[room] += 1
        self._wanted[room].set()
        try:
            yield
        finally:
            self._listeners[room] -= 1
            self._listeners += Counter()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
