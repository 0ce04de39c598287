"""The sessions of clients of earlier revisions: how many each caller has open."""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.http.limits import MESSAGE, caller_of, too_many
from calls_mcp.http.refusals import refusal
from calls_mcp.service.session_streams import Streams

IDLE = 600
"""Seconds after which a session that nobody uses is closed."""

_HEADER = "mcp-session-id"
_SUCCESS = range(200, 300)
_SOON = 60  # seconds until it is worth asking again


@dataclass(slots=True)
class _Session:
    caller: str
    idle_since: float
    users: int = 0
    asked: set[str | int] = field(default_factory=set[str | int])


class Sessions:
    """Lets each caller have `most` sessions at a time; `clock` is monotonic, in seconds.

    It notes in `streams` which of them can be notified.
    """

    def __init__(
        self, app: ASGIApp, most: int, clock: Callable[[], float], streams: Streams
    ) -> None:
        self._app = app
        self._most = most
        self._clock = clock
        self._streams = streams
        self._open: dict[str, _Session] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        name, caller = Headers(scope=scope).get(_HEADER, ""), caller_of(scope)
        is_new = _is_first(scope[MESSAGE])
        if is_new and self._count(caller) >= self._most:
            await too_many("sessions", _SOON)(scope, receive, send)
            return
        session = _Session(caller, self._clock()) if is_new else self._open.get(name)
        if session is None:
            await self._app(scope, receive, send)
            return
        asked = _asked(scope[MESSAGE])
        if asked & session.asked:  # the SDK finds the stream of a response by its id alone
            reason = "A request with the same id is under way: choose another"
            await refusal(400, reason)(scope, receive, send)
            return
        with self._in_use(session, asked), ExitStack() as using:
            if is_new:
                using.enter_context(self._opening(session))

            async def noticing(message: Message) -> None:
                if message.get("status") in _SUCCESS:
                    if is_new:
                        opened = Headers(raw=message["headers"]).get(_HEADER, "")
                        self._open.setdefault(opened, session)
                    elif scope["method"] == "GET":
                        using.enter_context(self._streams.opened(name))
                    elif scope["method"] == "DELETE":
                        self._open.pop(name, None)
                await send(message)

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

    @contextmanager
    def _opening(self, session: _Session) -> Generator[None]:
        """Count a session that has no id yet."""
        name = f"opening {id(session)}"
        self._open[name] = session
        try:
            yield
        finally:
            del self._open[name]

    def _count(self, caller: str) -> int:
        gone = self._clock() - IDLE
        self._open = {
            name: session
            for name, session in self._open.items()
            if session.users or session.idle_since > gone
        }
        return len({id(session) for session in self._open.values() if session.caller == caller})


def _is_first(message: object) -> bool:
    match message:
        case {"method": "initialize"}:
            return True
        case _:
            return False


def _asked(message: object) -> set[str | int]:
    """The id of a request, if the message is one."""
    match message:
        case {"method": str(), "id": str() | int() as identifier}:
            return {identifier}
        case _:
            return set()
