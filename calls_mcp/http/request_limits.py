"""How much may be asked for: requests at once and in a minute, and sessions.

A proxy in front should set such limits, too (`config/deploy/`): these hold without one, and know
who is asking.
"""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal, cast

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.http.request_checks import MESSAGE, Rejected, retry_later
from calls_mcp.service.grants import principal
from calls_mcp.service.session_streams import Streams
from calls_mcp.settings import Http
from calls_mcp.storage import Limit
from calls_mcp.storage.rate_limiter import RateLimiter
from calls_mcp.tools.catalog import load_operations

Kind = Literal["requests", "changes", "streams", "answers"]

SESSION_IDLE = 600
"""Seconds after which a session that nobody uses is closed."""

_ALL = ""
_MINUTE = 60
_SHARE = 4  # one principal gets this part of all sessions and streams
_RETRY_AFTER = 1  # second
_RETRY_SESSION_AFTER = 60  # seconds
_SESSION_ID = "mcp-session-id"
_SUCCESS = range(200, 300)


class RequestLimits:
    """Limits each caller's requests at once and in a minute, and those of all callers together.

    `is_full` tells whether too many connections are open.

    Requests of different kinds are counted apart: changes that wait for an answer of the user's
    keep out neither that answer, nor reads.
    """

    def __init__(self, settings: Http, rates: RateLimiter, is_full: Callable[[], bool]) -> None:
        self._settings = settings
        self._rates = rates
        self._is_full = is_full
        self._active: Counter[tuple[str, str]] = Counter()

    def check_connections(self) -> None:
        """Return unless there are too many connections.

        Raises:
            Rejected: There are. Health checks are still answered.
        """
        if self._is_full():
            raise retry_later(503, "Too many connections: nothing was done", _RETRY_AFTER)

    @contextmanager
    def concurrent(self, kind: Kind, caller: str) -> Generator[None]:
        """Count a request as one of those that are served at once.

        Raises:
            Rejected: There are too many.
        """
        each, in_all = self._max_concurrent(kind)
        places = (kind, caller), (kind, _ALL)
        if self._active[places[0]] >= each or self._active[places[1]] >= in_all:
            raise _too_many(f"{kind} at once", _RETRY_AFTER)
        for place in places:
            self._active[place] += 1
        try:
            yield
        finally:
            for place in places:
                self._active[place] -= 1
                if not self._active[place]:
                    del self._active[place]

    async def count(self, kind: Kind, caller: str) -> None:
        """Count a request as one of this minute's.

        Raises:
            Rejected: There were too many.
        """
        settings = self._settings
        limits = [
            Limit(kind, settings.rate, _MINUTE, caller),
            Limit(f"{kind} in all", settings.rate_in_all, _MINUTE, _ALL),
        ]
        if exceeded := await self._rates.hit(limits):
            raise _too_many(exceeded.name, exceeded.retry_after)

    def _max_concurrent(self, kind: Kind) -> tuple[int, int]:
        """Return how many requests of a kind are served at once: of one caller, and in all."""
        settings = self._settings
        match kind:
            case "streams":
                return settings.sessions // _SHARE, settings.sessions
            case "changes":  # most of them wait for the user's answer
                return settings.concurrency, max(settings.sessions, settings.concurrency_in_all)
            case _:
                return settings.concurrency, settings.concurrency_in_all


@dataclass(slots=True)
class _Session:
    caller: str
    idle_since: float
    users: int = 0
    request_ids: set[str | int] = field(default_factory=set[str | int])


class SessionLimit:
    """Limits the sessions that each caller has open, which clients of earlier revisions use.

    `clock` is monotonic, in seconds. Which sessions can be notified is noted in `streams`.
    """

    def __init__(
        self, app: ASGIApp, settings: Http, clock: Callable[[], float], streams: Streams
    ) -> None:
        self._app = app
        self._max = settings.sessions // _SHARE
        self._clock = clock
        self._streams = streams
        self._open: dict[str, _Session] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        is_new = method_of(scope) == "initialize"
        name, caller = Headers(scope=scope).get(_SESSION_ID, ""), caller_of(scope)
        if is_new and self._count(caller) >= self._max:
            rejected = _too_many("sessions", _RETRY_SESSION_AFTER)
            await rejected.response(scope, receive, send)
            return
        session = _Session(caller, self._clock()) if is_new else self._open.get(name)
        if session is None:
            await self._app(scope, receive, send)
            return
        request_ids = _request_ids(scope[MESSAGE])
        if request_ids & session.request_ids:  # the SDK finds a response's stream by the id alone
            rejected = Rejected(400, "A request with the same id is under way: choose another")
            await rejected.response(scope, receive, send)
            return
        with self._in_use(session, request_ids), ExitStack() as stack:
            if is_new:
                stack.enter_context(self._opening(session))

            async def observed(message: Message) -> None:
                if message.get("status") in _SUCCESS:
                    if is_new:
                        opened = Headers(raw=message["headers"]).get(_SESSION_ID, "")
                        self._open.setdefault(opened, session)
                    elif scope["method"] == "GET":
                        stack.enter_context(self._streams.opened(name))
                    elif scope["method"] == "DELETE":
                        self._open.pop(name, None)
                await send(message)

            await self._app(scope, receive, observed)

    @contextmanager
    def _in_use(self, session: _Session, request_ids: set[str | int]) -> Generator[None]:
        session.users += 1
        session.request_ids |= request_ids
        try:
            yield
        finally:
            session.users -= 1
            session.request_ids -= request_ids
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
        expired = self._clock() - SESSION_IDLE
        self._open = {
            name: session
            for name, session in self._open.items()
            if session.users or session.idle_since > expired
        }
        return len({id(session) for session in self._open.values() if session.caller == caller})


def method_of(scope: Scope) -> str:
    """Return the method of the message in a request; empty if it has none."""
    match scope[MESSAGE]:
        case {"method": str(method)}:
            return method
        case _:
            return ""


def kind_of(scope: Scope) -> Kind:
    """Return what a request is counted as."""
    match scope[MESSAGE]:
        case _ if scope["method"] == "GET":
            return "streams"
        case {"method": "subscriptions/listen"}:
            return "streams"
        case {"method": "tools/call", "params": {"name": str(name)}}:
            operation = load_operations().get(name)
            return "changes" if operation and not operation.read_only else "requests"
        case {"method": str(method)} if not method.startswith("notifications/"):
            return "requests"
        case _:  # what goes on with a request, or ends a session
            return "answers"


def caller_of(scope: Scope) -> str:
    """Return whom a request counts against: its token's principal, or else its address."""
    client = cast("tuple[str, int] | None", scope.get("client"))
    return principal() or f"address {client[0] if client else ''}"


def _too_many(what: str, wait: float) -> Rejected:
    return retry_later(429, f"Too many {what}: nothing was done", wait)


def _request_ids(message: object) -> set[str | int]:
    """Return the id of a request, if the message is one."""
    match message:
        case {"method": str(), "id": str() | int() as identifier}:
            return {identifier}
        case _:
            return set()
