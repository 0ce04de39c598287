"""Limits on concurrent requests, requests per minute, and sessions.

A reverse proxy should limit requests too (`config/deploy/`). These limits work without a proxy, and
count by principal.
"""

from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal, cast

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.http.request_checks import MESSAGE, RequestRejected, method_of, retry_later
from calls_mcp.service.grants import current_principal
from calls_mcp.service.watching import NotificationStreams
from calls_mcp.settings import HttpSettings
from calls_mcp.storage.rate_limits import Limit, RateLimiter
from calls_mcp.tools.catalog import load_operations

LimitKind = Literal["requests", "waits", "changes", "streams", "answers"]

_WORDS: Mapping[LimitKind, str] = {
    "requests": "requests",
    "waits": "calls with wait_until",
    "changes": "changes",
    "streams": "streams",
    "answers": "notifications and responses",
}
_ALL = ""
_MINUTE = 60
_SHARE = 4  # one principal can use a quarter of all sessions and streams
_RETRY_AFTER = 1  # second
_RETRY_SESSION_AFTER = 60  # seconds
_SESSION_ID = "mcp-session-id"
_SUCCESS = range(200, 300)


class RequestLimits:
    """Limits concurrent requests and requests per minute, by caller and in total.

    `is_full` returns whether too many connections are open. Each kind of request has its own
    counters, so waits for a call and changes that wait for their user block neither the user's
    answer nor reads.
    """

    def __init__(
        self, settings: HttpSettings, rates: RateLimiter, is_full: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._rates = rates
        self._is_full = is_full
        self._active: Counter[tuple[str, str]] = Counter()

    def check_connections(self) -> None:
        """Check the number of open connections. Health checks don't call this.

        Raises:
            RequestRejected: There are too many.
        """
        if self._is_full():
            raise retry_later(503, "Too many connections; nothing was done", _RETRY_AFTER)

    @contextmanager
    def concurrent(self, kind: LimitKind, caller: str) -> Generator[None]:
        """Count a request as concurrent while it is served.

        Raises:
            RequestRejected: There are too many.
        """
        each, in_all = self._max_concurrent(kind)
        places = (kind, caller), (kind, _ALL)
        if self._active[places[0]] >= each or self._active[places[1]] >= in_all:
            raise _too_many(f"concurrent {_WORDS[kind]}", _RETRY_AFTER)
        for place in places:
            self._active[place] += 1
        try:
            yield
        finally:
            for place in places:
                self._active[place] -= 1
                if not self._active[place]:
                    del self._active[place]

    async def count(self, kind: LimitKind, caller: str) -> None:
        """Count a request in the current minute.

        Raises:
            RequestRejected: There were too many.
        """
        settings = self._settings
        limits = [
            Limit(_WORDS[kind], settings.rate, _MINUTE, caller),
            Limit(f"{_WORDS[kind]} from all clients", settings.rate_in_all, _MINUTE, _ALL),
        ]
        if exceeded := await self._rates.hit(limits):
            raise _too_many(exceeded.name, exceeded.retry_after)

    def _max_concurrent(self, kind: LimitKind) -> tuple[int, int]:
        """Return how many requests of a kind can be concurrent: per caller, and in total."""
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
    request_ids: set[str] = field(default_factory=set[str])


class SessionLimit:
    """Limits each caller's open sessions. Only clients of earlier MCP revisions use sessions.

    `clock` is monotonic, in seconds. `streams` has the sessions that can be notified.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: HttpSettings,
        clock: Callable[[], float],
        streams: NotificationStreams,
    ) -> None:
        self._app = app
        self._max = settings.sessions // _SHARE
        self._idle = settings.session_idle
        self._clock = clock
        self._streams = streams
        self._open: dict[str, _Session] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI request."""
        is_new = method_of(scope) == "initialize"
        name, caller = Headers(scope=scope).get(_SESSION_ID, ""), principal_or_address(scope)
        if is_new and self._count(caller) >= self._max:
            rejected = _too_many("sessions", _RETRY_SESSION_AFTER)
            await rejected.response(scope, receive, send)
            return
        session = _Session(caller, self._clock()) if is_new else self._open.get(name)
        if session is None:
            await self._app(scope, receive, send)
            return
        request_ids = _request_ids(scope[MESSAGE])
        if request_ids & session.request_ids:  # the SDK routes responses by the id's text alone
            reason = "A request with this id is in progress. Use another id"
            rejected = RequestRejected(400, reason)
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
    def _in_use(self, session: _Session, request_ids: set[str]) -> Generator[None]:
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
        """Count a session before it has an id."""
        name = f"opening {id(session)}"
        self._open[name] = session
        try:
            yield
        finally:
            del self._open[name]

    def _count(self, caller: str) -> int:
        expired = self._clock() - self._idle
        self._open = {
            name: session
            for name, session in self._open.items()
            if session.users or session.idle_since > expired
        }
        return len({id(session) for session in self._open.values() if session.caller == caller})


def kind_of(scope: Scope) -> LimitKind:
    """Return the kind under which a request is counted."""
    match scope[MESSAGE]:
        case _ if scope["method"] == "GET":
            return "streams"
        case {"method": "subscriptions/listen"}:
            return "streams"
        case {
            "method": "tools/call",
            "params": {"name": "fetch_call", "arguments": {"wait_until": _}},
        }:
            return "waits"
        case {"method": "tools/call", "params": {"name": str(name)}}:
            operation = load_operations().get(name)
            return "changes" if operation and not operation.read_only else "requests"
        case {"method": str(method)} if not method.startswith("notifications/"):
            return "requests"
        case _:  # a response, a notification, or the end of a session
            return "answers"


def principal_or_address(scope: Scope) -> str:
    """Return the caller of a request: its token's principal, or else its address."""
    client = cast("tuple[str, int] | None", scope.get("client"))
    return current_principal() or f"address {client[0] if client else ''}"


def _too_many(what: str, wait: float) -> RequestRejected:
    return retry_later(429, f"Too many {what}; nothing was done", wait)


def _request_ids(message: object) -> set[str]:
    """Return the id of the message, as text, if it is a request."""
    match message:
        case {"method": str(), "id": str() | int() as identifier}:
            return {str(identifier)}
        case _:
            return set()
