"""Uvicorn in steps: its own `serve()` would take the host program's signals and hide readiness."""

import asyncio
import math
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, cast

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn.protocols.http.h11_impl import H11Protocol

_LOOP_TURNS = 3  # of the event loop
_OTHER_FILES = 150  # beside connections


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens there, on any free port if `port` is 0.

    Raises:
        OSError: The port is taken, or not ours to use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    return listening


def build_uvicorn(
    app: "ASGIApp",
    lifespan: Literal["on", "off"],
    *,
    most: int | None = None,
    head_bytes: int | None = None,
    keep_alive: int = 5,
) -> uvicorn.Server:
    """Return a server of `app` that logs nothing and believes no header about its client."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan=lifespan,
            log_config=None,
            access_log=False,
            reset_contextvars=True,  # a request's context may outlive it on its connection
            proxy_headers=False,
            server_header=False,
            limit_concurrency=most,
            h11_max_incomplete_event_size=head_bytes,
            timeout_keep_alive=keep_alive,
            timeout_graceful_shutdown=1,  # second; what is left is recorded as unknown
        )
    )


@asynccontextmanager
async def run_uvicorn(
    server: uvicorn.Server, listening: socket.socket, patience: float = math.inf
) -> AsyncGenerator[None]:
    """Serve on a socket, from the moment the context opens until it closes.

    A connection on which nothing moves for `patience` seconds is closed within twice as long.
    """
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup(sockets=[listening])
    tasks = [asyncio.create_task(server.main_loop())]
    if patience < math.inf:
        tasks.append(asyncio.create_task(_close_stalled(server, patience)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await _end(server, listening)


def max_connections(wanted: int) -> int:
    """How many connections there can be, of those that are wanted, by what the system allows.

    As many files may be open as the process can get allowed; some of them are for other things.
    """
    if sys.platform == "win32":
        return wanted
    import resource  # noqa: PLC0415  # there is none on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, max(1, soft - _OTHER_FILES))


async def _close_stalled(server: uvicorn.Server, patience: float) -> None:
    """Close connections whose client neither sends the head of a request nor reads a response.

    Uvicorn itself only has a time limit between a response and the next request.
    """
    before: dict[H11Protocol, object] = {}
    while True:
        await asyncio.sleep(patience)
        connections = cast("set[H11Protocol]", server.server_state.connections)
        waiting = {each: _progress(each) for each in connections if _waits_for_client(each)}
        for connection, _ in waiting.items() & before.items():
            connection.transport.abort()
        before = waiting


def _progress(connection: "H11Protocol") -> object:
    """Return what changes when the client sends a head or reads."""
    return connection.cycle, connection.transport.get_write_buffer_size()


def _waits_for_client(connection: "H11Protocol") -> bool:
    cycle = cast("object", connection.cycle)  # None before the first request
    is_idle = cycle is None or connection.cycle.response_complete
    return connection.flow.write_paused or (is_idle and connection.timeout_keep_alive_task is None)


async def _end(server: uvicorn.Server, listening: socket.socket) -> None:
    for _ in range(_LOOP_TURNS):  # in which those who have hung up are noticed
        await asyncio.sleep(0)
    if server.server_state.connections or server.server_state.tasks:
        await server.shutdown(sockets=[listening])
        return
    for each in server.servers:  # uvicorn would pause, for nobody
        each.close()
    listening.close()
    await server.lifespan.shutdown()
