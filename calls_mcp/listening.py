"""Uvicorn in steps: its own `serve()` would take the host program's signals and hide readiness."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn

_TURNS = 3  # of the event loop


def listener(host: str, port: int) -> socket.socket:
    """A socket that listens there, on any free port if `port` is 0.

    Raises:
        OSError: The address can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    return listening


@asynccontextmanager
async def serving(config: uvicorn.Config, listening: socket.socket) -> AsyncGenerator[None]:
    """Serve what `config` says on a socket, from the moment the context opens until it closes."""
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])
    ticking = asyncio.create_task(server.main_loop())
    try:
        yield
    finally:
        ticking.cancel()
        await asyncio.wait([ticking])
        await _end(server, listening)


async def _end(server: uvicorn.Server, listening: socket.socket) -> None:
    for _ in range(_TURNS):  # in which those who have hung up are noticed
        await asyncio.sleep(0)
    if server.server_state.connections or server.server_state.tasks:
        await server.shutdown(sockets=[listening])
        return
    for each in server.servers:  # uvicorn would pause, for nobody
        each.close()
    listening.close()
    await server.lifespan.shutdown()
