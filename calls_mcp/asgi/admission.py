"""How much may be asked for: in a minute and at once, by one principal and by all together."""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from calls_mcp.asgi import refusals
from calls_mcp.asgi.intake import is_reply
from calls_mcp.authentication.entrance import MESSAGE
from calls_mcp.store.counters import Limit
from calls_mcp.store.rates import Rates

_ALL = ""
_STREAMS = "streams"
_MINUTE = 60
_SOON = 1  # seconds until it is worth asking again


@dataclass(frozen=True, slots=True)
class Quota:
    """What one principal, or all of them, may have: requests a minute, and at once; streams."""

    rate: int
    concurrency: int
    streams: int


class Admission:
    """Passes on what is within the quotas; `principal` tells whom the request in hand is from.

    What goes on with a request that waits for it (an answer of the user's, a notification) is
    counted for itself, so that requests which wait are never what keeps it out.
    """

    def __init__(
        self,
        app: ASGIApp,
        each: Quota,
        in_all: Quota,
        principal: Callable[[], str],
        rates: Rates,
    ) -> None:
        self._app = app
        self._each = each
        self._in_all = in_all
        self._principal = principal
        self._rates = rates
        self._present: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        principal = self._principal()
        kind = _kind(scope)
        refusal = self._crowded(kind, principal) or await self._hurried(kind, principal)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        with self._inside(kind, principal):
            await self._app(scope, receive, send)

    async def _hurried(self, kind: str, principal: str) -> Response | None:
        """A refusal of what comes too soon after what came before."""
        limits = [
            Limit(kind, self._each.rate, _MINUTE, principal),
            Limit(f"{kind} in all", self._in_all.rate, _MINUTE, _ALL),
        ]
        exhausted = await self._rates.hit(limits)
        return exhausted and refusals.too_many(exhausted.name, exhausted.wait)

    def _crowded(self, kind: str, principal: str) -> Response | None:
        """A refusal while too much is going on."""
        for who, quota in ((principal, self._each), (_ALL, self._in_all)):
            room = quota.streams if kind == _STREAMS else quota.concurrency
            if self._present[kind, who] >= room:
                return refusals.too_many(f"{kind} at once", _SOON)
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


def _kind(scope: Scope) -> str:
    if scope["method"] == "GET":
        return _STREAMS
    return "answers" if is_reply(scope[MESSAGE]) else "requests"
