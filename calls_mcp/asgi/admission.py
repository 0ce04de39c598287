"""How much may be asked for: in a minute and at once, by one principal and by all together."""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from calls_mcp.asgi import refusals
from calls_mcp.asgi.drain import Drain
from calls_mcp.authentication.entrance import MESSAGE
from calls_mcp.catalog import load_operations
from calls_mcp.store.counters import Limit
from calls_mcp.store.rates import Rates

_ALL = ""
_STREAMS, _CHANGES = "streams", "changes"
_MINUTE = 60
_SOON = 1  # seconds until it is worth asking again


@dataclass(frozen=True, slots=True)
class Quota:
    """What one principal, or all of them, may have: requests a minute, and at once; streams.

    `changes` is how many of these may go on at once. Most of them wait for somebody's answer.
    """

    rate: int
    concurrency: int
    streams: int
    changes: int

    def room(self, kind: str) -> int:
        """How many of a kind there may be at once."""
        return {_STREAMS: self.streams, _CHANGES: self.changes}.get(kind, self.concurrency)


class Admission:
    """Passes on what is within the quotas; `principal` tells whom the request in hand is from.

    Requests of different kinds are counted apart: changes that wait for an answer of the user's
    keep out neither that answer, nor reads.
    """

    def __init__(
        self,
        app: ASGIApp,
        each: Quota,
        in_all: Quota,
        principal: Callable[[], str],
        rates: Rates,
        drain: Drain,
    ) -> None:
        self._app = app
        self._each = each
        self._in_all = in_all
        self._principal = principal
        self._rates = rates
        self._drain = drain
        self._present: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        principal = self._principal()
        kind = _kind(scope["method"], scope[MESSAGE])
        refusal = self._late(scope[MESSAGE]) or self._crowded(kind, principal)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        with self._inside(kind, principal):  # before anything is waited for
            app = await self._hurried(kind, principal) or self._app
            await app(scope, receive, send)

    def _late(self, message: object) -> Response | None:
        """A refusal of what begins when all is about to end."""
        match message:
            case {"method": "initialize" | "tools/call" | "subscriptions/listen"} if (
                self._drain.has_begun
            ):
                return refusals.draining()
            case _:
                return None

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
            if self._present[kind, who] >= quota.room(kind):
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


def _kind(method: str, message: object) -> str:
    """What a request is counted as."""
    match message:
        case _ if method == "GET":
            return _STREAMS
        case {"method": "subscriptions/listen"}:
            return _STREAMS
        case {"method": "tools/call", "params": {"name": str(name)}}:
            operation = load_operations().get(name)
            return _CHANGES if operation and not operation.read_only else "requests"
        case {"method": str(called)} if not called.startswith("notifications/"):
            return "requests"
        case _:  # what goes on with a request, or ends a session
            return "answers"
