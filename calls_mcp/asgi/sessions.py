"""The sessions of clients of earlier revisions: how many each principal has open."""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.asgi import refusals
from calls_mcp.authentication.entrance import MESSAGE
from calls_mcp.streams import Streams

IDLE = 600
"""Seconds after which a session that nobody uses is closed."""

_HEADER = "mcp-session-id"
_SUCCESS = range(200, 300)
_SOON = 60  # seconds until it is worth asking again


@dataclass(slots=True)
class _Session:
    principal: str
    idle_since: float
    users: int = 0
    asked: set[str | int] = field(default_factory=set[str | int])


class Sessions:
    """Lets each principal have `most` sessions at a time; `clock` is monotonic, in seconds.

    It notes in `streams` which of them can be told of something.
    """

    def __init__(
        self,
        app: ASGIApp,
        most: int,
        principal: Callable[[], str],
        clock: Callable[[], float],
        streams: Streams,
    ) -> None:
        self._app = app
        self._most = most
        self._principal = principal
        self._clock = clock
        self._streams = streams
        self._open: dict[str, _Session] = {}
        self._opening: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        match scope.get(MESSAGE):
            case {"method": "initialize"}:
                await self._begin(scope, receive, send)
            case _ if scope["method"] == "GET":
                await self._listen(scope, receive, send)
            case _:
                await self._go_on(scope, receive, send)

    async def _listen(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = Headers(scope=scope).get(_HEADER, "")
        with ExitStack() as stream:

            async def noticing(message: Message) -> None:
                await send(message)
                if message.get("status") in _SUCCESS:
                    stream.enter_context(self._streams.opened(name))

            await self._go_on(scope, receive, noticing)

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = self._principal()
        if self._count(principal) >= self._most:
            await refusals.too_many("sessions", _SOON)(scope, receive, send)
            return

        async def noticing(message: Message) -> None:
            session = Headers(raw=message.get("headers", ())).get(_HEADER)
            if session is not None:
                self._open.setdefault(session, _Session(principal, self._clock()))
            await send(message)

        self._opening[principal] += 1
        try:
            await self._app(scope, receive, noticing)
        finally:
            self._opening[principal] -= 1
            self._opening += Counter()  # without those of nobody

    async def _go_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = Headers(scope=scope).get(_HEADER, "")
        session = self._open.get(name)
        if session is None:
            await self._app(scope, receive, send)
            return

        async def noticing(message: Message) -> None:
            if scope["method"] == "DELETE" and message.get("status") in _SUCCESS:
                self._open.pop(name, None)
            await send(message)

        asked = _asked(scope.get(MESSAGE))
        if asked & session.asked:
            await refusals.repeated()(scope, receive, send)
            return
        with self._in_use(session, asked):
            await self._app(scope, receive, noticing)

    @contextmanager
    def _in_use(self, session: _Session, asked: set[str | int]) -> Generator[None]:
        session.users += 1
        session.asked |= asked
        try:
            yield
        finally:
            session.users -= 1
            session.asked -= asked
            session.idle_since = self._clock()

    def _count(self, principal: str) -> int:
        gone = self._clock() - IDLE
        self._open = {
            name: session
            for name, session in self._open.items()
            if session.users or session.idle_since > gone
        }
        whose = (session.principal for session in self._open.values())
        return self._opening[principal] + sum(each == principal for each in whose)


def _asked(message: object) -> set[str | int]:
    """The id of a request, which the SDK tells its answer by."""
    match message:
        case {"method": str(), "id": str() | int() as identifier}:
            return {identifier}
        case _:
            return set()
