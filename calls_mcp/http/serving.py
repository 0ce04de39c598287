"""Serving over HTTP with uvicorn: where, for whom, and until a signal comes."""

import logging
import os
import re
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings

from calls_mcp.errors import ConfigurationError
from calls_mcp.http.asgi import build_app
from calls_mcp.http.request_limits import RequestLimits
from calls_mcp.http.shutdown import Shutdown
from calls_mcp.http.uvicorn_server import build_uvicorn, max_connections, open_socket, run_uvicorn
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Settings, is_loopback

_log = logging.getLogger(__name__)

_KEEP_ALIVE = 75  # seconds: longer than a proxy in front keeps a connection that it may use again
_NOTICED = 1  # second in which a balancer learns of the end
_SPARE = 100  # connections beside those of requests and sessions
_LAST_PORT = 65_535
_PATH = re.compile(r"/|(/[A-Za-z0-9._~-]+)+/?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where clients find the server; with port 0 the system chooses one."""

    host: str = "127.0.0.1"
    port: int = 8080
    path: str = "/mcp"

    @property
    def authority(self) -> str:
        """Return host and port as a URL has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the endpoint's URL."""
        return f"http://{self.authority}{self.path}"

    @property
    def is_local(self) -> bool:
        """Return whether only this machine reaches it."""
        return is_loopback(self.host)


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server that listens at `endpoint`."""

    endpoint: Endpoint
    shutdown: Shutdown
    runtime: Runtime

    async def stop(self, grace: float) -> None:
        """Begin nothing more, and finish what is under way within `grace` seconds.

        Streams end at once. After four fifths of the time, or at a second signal, all is cancelled:
        a change that the API has not answered soon after is recorded as unknown.
        """
        self.shutdown.begin()
        self.runtime.ending.set()
        with anyio.move_on_after(grace * 0.8):
            # A balancer that has not noticed yet would send a request into the very end.
            await anyio.sleep(min(_NOTICED, grace / 10))
            await self.shutdown.idle()
        self.shutdown.cancel_requests()
        with anyio.move_on_after(grace * 0.1):
            await self.runtime.finish(anyio.current_time() + grace * 0.05)
            await self.shutdown.idle()


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
        ConfigurationError: As `open_server` and `beside` do.
    """
    _log.setLevel(logging.INFO)  # where it serves is told in any case
    grace = runtime.settings.http.grace
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with (
            open_server(server, runtime, endpoint) as http,
            beside or nullcontext(),
            anyio.create_task_group() as tasks,
        ):
            _log.info("serving at %s", http.endpoint.url)
            await anext(signals)
            _log.info("ending, within %g s", grace)
            _end_within(grace)
            tasks.start_soon(_cancel_at_signal, signals, http.shutdown)
            await http.stop(grace)
            tasks.cancel_scope.cancel()


async def _cancel_at_signal(signals: AsyncIterator[signal.Signals], shutdown: Shutdown) -> None:
    async for _ in signals:
        shutdown.cancel_requests()


@asynccontextmanager
async def open_server(
    server: Server[Any], runtime: Runtime, endpoint: Endpoint
) -> AsyncGenerator[HttpServer]:
    """Serve at `endpoint`, where port 0 means any free one.

    Raises:
        ConfigurationError: It would not be safe there, the port can't be had, or what
            authenticates callers is wrong.
    """
    http = runtime.settings.http
    _require_protected(endpoint, runtime.settings)
    try:
        listener = open_socket(endpoint.host, endpoint.port)
    except OSError as failure:
        raise ConfigurationError(
            f"Cannot listen on {endpoint.authority}: {failure.strerror}"
        ) from failure
    with listener:
        bound = replace(endpoint, port=listener.getsockname()[1])
        limit = max_connections(http.concurrency_in_all + http.sessions + _SPARE)
        shutdown = Shutdown()

        def is_full() -> bool:  # uvicorn's own limit would refuse probes of health, too
            return len(uvicorn.server_state.connections) > limit

        app = build_app(
            server=server,
            runtime=runtime,
            path=bound.path,
            security=_transport_security(bound, http.allowed_hosts.split()),
            shutdown=shutdown,
            limits=RequestLimits(http, await runtime.rates(), is_full),
        )
        uvicorn = build_uvicorn(app, "on", head_bytes=http.header_bytes, keep_alive=_KEEP_ALIVE)
        async with run_uvicorn(uvicorn, listener, http.patience):
            yield HttpServer(bound, shutdown, runtime)


def _end_within(seconds: float) -> None:
    """End the process then, should anything keep it from ending by itself."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _require_protected(endpoint: Endpoint, settings: Settings) -> None:
    """Return if no caller would come in unchecked.

    Raises:
        ConfigurationError: Other machines reach the endpoint, and callers or hosts are not checked.
    """
    hosts = settings.http.allowed_hosts.split()
    if not 0 <= endpoint.port <= _LAST_PORT:
        raise ConfigurationError(f"--port must be 0 to {_LAST_PORT}.")
    if not _PATH.fullmatch(endpoint.path) or endpoint.path.strip("/") in ("healthz", "readyz"):
        raise ConfigurationError(
            "--path must begin with /, have plain words only, and be none of /healthz and /readyz."
        )
    if settings.auth.mode == "none" and not (endpoint.is_local and _all_local(hosts)):
        raise ConfigurationError(
            "Others than this machine would reach the server, so callers must be authenticated: "
            "set CALLS_MCP_AUTH to tokens or oauth, or keep to 127.0.0.1 and its own names."
        )
    if not endpoint.is_local and not hosts:
        raise ConfigurationError(
            f"Other machines reach {endpoint.host}, so set CALLS_MCP_ALLOWED_HOSTS to the hosts by "
            "which clients know this server, such as mcp.example.com."
        )


def _transport_security(endpoint: Endpoint, allowed: list[str]) -> TransportSecuritySettings:
    """Return the hosts and origins that a request may name; both are checked in any case."""
    hosts = [*_with_any_port(allowed)]
    origins = [f"{scheme}://{host}" for host in hosts for scheme in ("https", "http")]
    if endpoint.is_local:
        own = [f"{name}:{endpoint.port}" for name in ("127.0.0.1", "localhost", "[::1]")]
        own.append(endpoint.authority)
        hosts += own
        origins += [f"http://{host}" for host in own]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


def _all_local(hosts: list[str]) -> bool:
    return all(
        is_loopback(host if host.endswith("]") else host.partition(":")[0]) for host in hosts
    )


def _with_any_port(hosts: list[str]) -> list[str]:
    """Return the hosts; one without a port stands for itself with any."""
    bare = [host for host in hosts if host.endswith("]") or ":" not in host]
    return [*hosts, *(f"{host}:*" for host in bare)]
