"""How much may be asked for: in a minute and at once, by one principal and by all together."""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from calls_mcp.asgi import refusals
from calls_mcp.asgi.intake import MESSAGE
from calls_mcp.store.counters import Counters, Limit

SESSION_IDLE = 600
"""Seconds after which a session that nobody uses is closed."""

_ALL = ""
_MINUTE = 60
_SOON = 1  # seconds until it is worth asking again


@dataclass(frozen=True, slots=True)
class Quota:
    """What one principal, or all of them, may have: requests a minute, and at once; sessions.

    Without sessions, there is nothing of them to count.
    """

    rate: int
    concurrency: int
    sessions: int


class Admission:
    """Passes on what is within the quotas; `principal` tells whom the request in hand is from."""

    def __init__(
        self,
        app: ASGIApp,
        each: Quota,
        in_all: Quota,
        principal: Callable[[], str],
        counters: Counters,
    ) -> None:
        self._app = app
        self._each = each
        self._in_all = in_all
        self._principal = principal
        self._counters = counters
        self._present: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        principal = self._principal()
        kind = "streams" if scope["method"] == "GET" else "requests at once"
        refusal = self._crowded(kind, principal) or await self._hurried(scope, principal)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        with self._inside(kind, principal):
            await self._app(scope, receive, send)

    async def _hurried(self, scope: Scope, principal: str) -> Response | None:
        """A refusal of what comes too soon after what came before."""
        limits = [
            Limit("requests", self._each.rate, _MINUTE, principal),
            Limit("requests in all", self._in_all.rate, _MINUTE, _ALL),
        ]
        match scope[MESSAGE]:
            case {"method": "initialize"} if self._each.sessions:
                limits.append(Limit("sessions", self._each.sessions, SESSION_IDLE, principal))
            case _:
                pass
        exhausted = await self._counters.hit(limits)
        return exhausted and refusals.too_many(exhausted.name, exhausted.wait)

    def _crowded(self, kind: str, principal: str) -> Response | None:
        """A refusal while too much is going on."""
        for who, quota in ((principal, self._each), (_ALL, self._in_all)):
            room = quota.sessions if kind == "streams" else quota.concurrency
            if self._present[kind, who] >= room:
                return refusals.too_many(kind, _SOON)
        return None

    @contextmanager
    def _inside(self, kind: str, principal: str) -> Generator[None]:
        places = ((kind, principal), (kind, _ALL))
        self._present.update(places)
        try:
            yield
        finally:
            self._present.subtract(places)
            for place in places:
                if not self._present[place]:
                    del self._present[place]
