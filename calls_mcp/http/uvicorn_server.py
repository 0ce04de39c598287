"""Run uvicorn in steps, because its `serve()` takes over signals and does not report readiness."""

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
_OTHER_FILES = 150  # open files that are not connections


def open_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket, on any free port if `port` is 0.

    Raises:
        OSError: The address is in use, not available, or needs more privileges.
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
    """Return a server of `app` that logs nothing and ignores `X-Forwarded-*` headers."""
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
            timeout_graceful_shutdown=1,  # second; changes still unanswered are recorded as unknown
        )
    )


@asynccontextmanager
async def run_uvicorn(
    server: uvicorn.Server, listening: socket.socket, patience: float = math.inf
) -> AsyncGenerator[None]:
    """Serve on a socket while the context is open.

    A connection that stalls for `patience` seconds is closed within twice that time.
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
    """Return how many of the wanted connections the system's limit of open files allows.

    Raises the process's soft limit as needed, and reserves some files for other uses.
    """
    if sys.platform == "win32":
        return wanted
    import resource  # noqa: PLC0415  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, max(1, soft - _OTHER_FILES))


async def _close_stalled(server: uvicorn.Server, patience: float) -> None:
    """Close connections whose client neither sends request headers nor reads the response.

    Uvicorn only limits the time between a response and the next request.
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
    """Return values that change when the client sends headers or reads."""
    return connection.cycle, connection.transport.get_write_buffer_size()


def _waits_for_client(connection: "H11Protocol") -> bool:
    cycle = cast("object", connection.cycle)  # None before the first request
    is_idle = cycle is None or connection.cycle.response_complete
    return connection.flow.write_paused or (is_idle and connection.timeout_keep_alive_task is None)


async def _end(server: uvicorn.Server, listening: socket.socket) -> None:
    for _ in range(_LOOP_TURNS):  # so that closed connections are noticed
        await asyncio.sleep(0)
    if server.server_state.connections or server.server_state.tasks:
        await server.shutdown(sockets=[listening])
        return
    for each in server.servers:  # not by server.shutdown(), which sleeps
        each.close()
    listening.close()
    await server.lifespan.shutdown()
