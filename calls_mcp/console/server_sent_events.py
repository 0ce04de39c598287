"""Server-sent events that notify open pages of changes."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from calls_mcp.console.browser_sessions import Session, Sessions, session_of

Fingerprint = Callable[[], Awaitable[str]]
"""Returns a text that changes whenever the content of a page changes."""

_MAX_LISTENERS = 500
_KEEP_ALIVE = 15  # seconds between two comments that keep a stream open


@dataclass(slots=True, eq=False)
class _Topic:
    """A topic and its latest fingerprint. `changed` is replaced each time it is set."""

    read: Fingerprint
    fingerprint: str = ""
    listeners: int = 0
    changed: anyio.Event = field(default_factory=anyio.Event)
    has_listeners: anyio.Event = field(default_factory=anyio.Event)

    def notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    @contextmanager
    def listening(self) -> Generator[None]:
        self.listeners += 1
        self.has_listeners.set()
        try:
            yield
        finally:
            self.listeners -= 1


class EventStream:
    """Polls the fingerprint of each topic every `interval` seconds, once for all its listeners."""

    def __init__(
        self, sessions: Sessions, topics: Mapping[str, Fingerprint], interval: float
    ) -> None:
        self._sessions = sessions
        self._topics = {name: _Topic(read) for name, read in topics.items()}
        self._interval = interval
        self._is_closed = False
        self.routes = [Route("/events", self.stream)]

    async def stream(self, request: Request) -> Response:
        """Stream the events of one topic."""
        topic = self._topics.get(request.query_params.get("topic", ""))
        if topic is None:
            raise HTTPException(404, "Unknown topic. Use approvals or calls.")
        if sum(each.listeners for each in self._topics.values()) >= _MAX_LISTENERS:
            raise HTTPException(503, "Too many open tabs. Close some and reload this one.")
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        events = self._events(topic, session_of(request))
        return StreamingResponse(events, media_type="text/event-stream")

    async def run(self) -> None:
        """Poll all topics until cancelled. A slow topic does not delay the others."""
        async with anyio.create_task_group() as tasks:
            for topic in self._topics.values():
                tasks.start_soon(self._poll, topic)

    def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        for topic in self._topics.values():
            topic.notify()

    async def _poll(self, topic: _Topic) -> None:
        while True:
            await topic.has_listeners.wait()
            fingerprint = await topic.read()
            if topic.fingerprint != fingerprint:
                topic.fingerprint = fingerprint
                topic.notify()
            if not topic.listeners:
                topic.has_listeners = anyio.Event()
            await anyio.sleep(self._interval)

    async def _events(self, topic: _Topic, session: Session) -> AsyncIterator[str]:
        sent = ""
        with topic.listening():
            while not self._is_closed and await self._sessions.is_valid(session):
                changed = topic.changed
                if topic.fingerprint != sent:
                    sent = topic.fingerprint
                    yield f"data: {json.dumps({'fingerprint': sent})}\n\n"
                    continue
                with anyio.move_on_after(_KEEP_ALIVE) as timeout:
                    await changed.wait()
                if timeout.cancelled_caught:
                    yield ":\n\n"
