"""Uvicorn in steps: its own `serve()` would take the host program's signals and hide readiness."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn


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
        await server.shutdown(sockets=[listening])
