"""Serving over HTTP with uvicorn, until a signal comes."""

import logging
import os
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import anyio
from mcp.server.lowlevel import Server

from calls_mcp.errors import ConfigurationError
from calls_mcp.http.asgi import build_app
from calls_mcp.http.endpoint import Endpoint, require_protected
from calls_mcp.http.listening import listener, places, server_of, serving
from calls_mcp.http.shutdown import Drain
from calls_mcp.service.runtime import Runtime

_log = logging.getLogger(__name__)

_KEEP_ALIVE = 75  # seconds: longer than a proxy in front keeps a connection that it may use again
_NOTICED = 1  # second in which a balancer learns of the end
_SPARE = 100  # connections beside those of requests and sessions


@dataclass(frozen=True, slots=True)
class Site:
    """A server that listens at `endpoint`."""

    endpoint: Endpoint
    drain: Drain
    runtime: Runtime

    async def end(self, grace: float) -> None:
        """Begin nothing more, and finish what is under way within `grace` seconds.

        Whoever waits for news of calls is let go at once.

        At first whoever comes is refused for a moment, even if nobody is connected: a balancer that
        has not noticed yet would send a request into the very end.

        After four fifths of them, or at a second signal, all is broken off: what the API has not
        answered of a change soon after is recorded as unknown.
        """
        self.drain.begin()
        self.runtime.ending.set()
        with anyio.move_on_after(grace * 0.8):
            await anyio.sleep(min(_NOTICED, grace / 10))
            await self.drain.idle()
        self.drain.break_off()
        with anyio.move_on_after(grace * 0.1):
            await self.runtime.finish(anyio.current_time() + grace * 0.05)
            await self.drain.idle()


async def serve_http(
    server: Server[Any],
    runtime: Runtime,
    endpoint: Endpoint,
    beside: AbstractAsyncContextManager[None] | None = None,
) -> None:
    """Serve at `endpoint` until SIGINT or SIGTERM, and then finish what is under way.

    What is served `beside` it goes on until that is finished, which may wait for the operator. A
    second signal breaks it off.

    Raises:
        ConfigurationError: As `listening` and `beside` do.
    """
    _log.setLevel(logging.INFO)  # where it serves is told in any case
    grace = runtime.settings.http.grace
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with (
            listening(server, runtime, endpoint) as site,
            beside or nullcontext(),
            anyio.create_task_group() as tasks,
        ):
            _log.info("serving at %s", site.endpoint.url)
            await anext(signals)
            _log.info("ending, within %g s", grace)
            _end_within(grace)
            tasks.start_soon(_hurry, signals, site.drain)
            await site.end(grace)
            tasks.cancel_scope.cancel()


async def _hurry(signals: AsyncIterator[signal.Signals], drain: Drain) -> None:
    """At another signal, break off what is under way at once."""
    async for _ in signals:
        drain.break_off()


@asynccontextmanager
async def listening(
    server: Server[Any], runtime: Runtime, endpoint: Endpoint
) -> AsyncGenerator[Site]:
    """Serve at `endpoint`, where port 0 means any free one.

    Raises:
        ConfigurationError: It would not be safe there, the port can't be had, or what
            authenticates callers is wrong.
    """
    settings = runtime.settings
    require_protected(endpoint, settings)
    try:
        listening_at = listener(endpoint.host, endpoint.port)
    except OSError as failure:
        raise ConfigurationError(
            f"Cannot listen on {endpoint.authority}: {failure.strerror}"
        ) from failure
    with listening_at:
        found = replace(endpoint, port=listening_at.getsockname()[1])
        wanted = settings.http.concurrency_in_all + settings.http.sessions + _SPARE
        drain, most = Drain(), places(wanted)

        def is_crowded() -> bool:  # uvicorn's own limit would refuse probes of health, too
            return len(uvicorn_server.server_state.connections) > most

        app = build_app(
            server=server,
            runtime=runtime,
            endpoint=found,
            drain=drain,
            rates=await runtime.rates(),
            is_crowded=is_crowded,
        )
        head_bytes = settings.http.header_bytes
        uvicorn_server = server_of(app, "on", head_bytes=head_bytes, keep_alive=_KEEP_ALIVE)
        async with serving(uvicorn_server, listening_at, settings.http.patience):
            yield Site(found, drain, runtime)


def _end_within(seconds: float) -> None:
    """The last resort, should something be in the way of the end."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()
