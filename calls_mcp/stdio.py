"""Serving one client over stdin and stdout, until either side ends it."""

import os
import signal
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from calls_mcp.runtime import Runtime


async def serve_stdio(server: Server[Any], runtime: Runtime) -> None:
    """Serve until the end of input, SIGINT or SIGTERM."""
    async with stdio_server() as (incoming, outgoing):
        async with runtime, anyio.create_task_group() as tasks:
            tasks.start_soon(_end_on_signal, tasks.cancel_scope)
            await server.run(incoming, outgoing, server.create_initialization_options())
            tasks.cancel_scope.cancel()
            return
        # A signal came. A thread of the SDK's still waits for input, and only input would end it.
        os._exit(0)


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return
