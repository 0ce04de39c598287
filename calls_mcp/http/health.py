"""Whether the server is alive, and whether it can be sent requests."""

import math

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from calls_mcp.http.shutdown import Drain
from calls_mcp.service.runtime import Runtime

_PATIENCE = 3  # seconds for what readiness depends on
_FRESH = 1  # second


async def healthy(_request: Request) -> Response:
    """Answer as long as the process lives."""
    return JSONResponse({"alive": True})


class Readiness:
    """Tells whether the server can be sent requests, and finds out at most once a second.

    The account is the server's own: one that only a principal has takes nobody else down.
    """

    def __init__(self, runtime: Runtime, drain: Drain) -> None:
        self._runtime = runtime
        self._drain = drain
        self._looking = anyio.Lock()
        self._known = (-math.inf, False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        is_ready = not self._drain.has_begun and await self._is_well()
        response = JSONResponse({"ready": is_ready}, 200 if is_ready else 503)
        await response(scope, receive, send)

    async def _is_well(self) -> bool:
        async with self._looking:
            at, is_well = self._known
            if anyio.current_time() - at > _FRESH:
                is_well = False
                with anyio.move_on_after(_PATIENCE):
                    is_well = await self._runtime.is_ready()
                self._known = (anyio.current_time(), is_well)
        return is_well
