"""Serving one client over stdin and stdout, until either side ends it."""

import os
import signal
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from calls_mcp.observability import stderr
from calls_mcp.server.pipes import are_pipes, claim_pipes
from calls_mcp.service.runtime import Runtime

_GRACE = 3  # seconds


async def serve_stdio(server: Server[Any], runtime: Runtime) -> None:
    """Serve until the end of input, SIGINT or SIGTERM, and then close `runtime`.

    A change that is under way at a signal is given some seconds to be recorded.
    """
    async with _connected() as (incoming, outgoing):
        async with aclosing(runtime), anyio.create_task_group() as tasks:
            tasks.start_soon(_end_on_signal, tasks.cancel_scope)
            await server.run(incoming, outgoing, server.create_initialization_options())
            tasks.cancel_scope.cancel()
            return
        # A signal came. Where a thread waits for input, only input would end it.
        stderr.flush()
        os._exit(0)


@asynccontextmanager
async def _connected() -> AsyncGenerator[tuple[Any, Any]]:
    """The SDK's transport, over pipes of the loop's where it can: three changes of thread less."""
    if not are_pipes():
        async with stdio_server() as streams:
            yield streams
        return
    incoming, outgoing = await claim_pipes()
    try:
        yield incoming, outgoing
    finally:
        await outgoing.aclose()
        with anyio.move_on_after(_GRACE, shield=True):
            await outgoing.wait_closed()


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            last_resort = threading.Timer(_GRACE, os._exit, (0,))
            last_resort.daemon = True
            last_resort.start()
            return
