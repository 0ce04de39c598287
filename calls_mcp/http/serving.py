"""Serve over HTTP with uvicorn until a signal arrives."""

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings

from calls_mcp.errors import ConfigurationError
from calls_mcp.http.mcp_endpoint import Shutdown, build_app
from calls_mcp.http.request_limits import RequestLimits
from calls_mcp.http.uvicorn_server import build_uvicorn, max_connections, open_socket, run_uvicorn
from calls_mcp.service.runtime import Runtime
from calls_mcp.service.signals import receive_signals
from calls_mcp.settings import Settings, is_loopback
from calls_mcp.storage.interface import error_text

_log = logging.getLogger(__name__)

_KEEP_ALIVE = 75  # seconds: longer than a reverse proxy keeps idle connections
_NOTICED = 1  # second in which a load balancer notices the shutdown
_SPARE = 100  # connections in addition to those of requests and sessions
_LAST_PORT = 65_535
_PATH = re.compile(r"/|(/[A-Za-z0-9._~-]+)+/?")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """The address of the MCP endpoint. With port 0, the system chooses a free port."""

    host: str = "127.0.0.1"
    port: int = 8080
    path: str = "/mcp"

    @property
    def authority(self) -> str:
        """Return `HOST:PORT` as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the endpoint's URL."""
        return f"http://{self.authority}{self.path}"

    @property
    def is_local(self) -> bool:
        """Return whether only this machine can reach the endpoint."""
        return is_loopback(self.host)


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server that listens at `address`."""

    address: ListenAddress
    shutdown: Shutdown
    runtime: Runtime

    async def stop(self, grace: float) -> None:
        """Reject new requests, and finish those in progress within `grace` seconds.

        Streams end at once. After 80 % of the time, or at a second signal, all requests are
        cancelled. A change that the API does not answer soon after is recorded as unknown.
        """
        self.shutdown.begin()
        self.runtime.ending.set()
        with anyio.move_on_after(grace * 0.8):
            # A load balancer that has not noticed the shutdown may still send requests.
            await anyio.sleep(min(_NOTICED, grace / 10))
            await self.shutdown.idle()
            await self.runtime.idle()  # a change may run after its approval, without a request
        self.shutdown.cancel_requests()
        with anyio.move_on_after(grace * 0.1):
            await self.runtime.finish(anyio.current_time() + grace * 0.05)
            await self.shutdown.idle()


async def serve_http(
    server: Server[Any],
    runtime: Runtime,
    address: ListenAddress,
    beside: AbstractAsyncContextManager[None] | None = None,
) -> None:
    """Serve at `address` until SIGINT or SIGTERM, then finish the requests in progress.

    `beside` (the console) stays open until they are finished, because they may wait for the
    operator. A second signal cancels them.

    Raises:
        ConfigurationError: As `open_server` and `beside` do.
    """
    _log.setLevel(logging.INFO)  # the URL is logged at every level
    grace = runtime.settings.http.grace
    with receive_signals(grace) as signals:
        async with (
            open_server(server, runtime, address) as http,
            beside or nullcontext(),
            anyio.create_task_group() as tasks,
        ):
            _log.info("serving at %s", http.address.url)
            await anext(signals)
            _log.info("shutting down within %g s", grace)
            tasks.start_soon(_cancel_at_signal, signals, http.shutdown)
            await http.stop(grace)
            tasks.cancel_scope.cancel()


async def _cancel_at_signal(signals: AsyncIterator[int], shutdown: Shutdown) -> None:
    async for _ in signals:
        shutdown.cancel_requests()


@asynccontextmanager
async def open_server(
    server: Server[Any], runtime: Runtime, address: ListenAddress
) -> AsyncGenerator[HttpServer]:
    """Serve at `address`; port 0 means any free port.

    Raises:
        ConfigurationError: The server would be unprotected, can't listen there, or the principals
            file is wrong.
    """
    http = runtime.settings.http
    _require_protected(address, runtime.settings)
    try:
        listener = open_socket(address.host, address.port)
    except OSError as failure:
        raise ConfigurationError(
            f"Cannot listen on {address.authority}: {error_text(failure)}. "
            "Use another --host or --port."
        ) from failure
    with listener:
        bound = replace(address, port=listener.getsockname()[1])
        limit = max_connections(http.concurrency_in_all + http.sessions + _SPARE)
        shutdown = Shutdown()

        def is_full() -> bool:  # uvicorn's own limit would reject health checks too
            return len(uvicorn.server_state.connections) > limit

        app = build_app(
            server=server,
            runtime=runtime,
            path=bound.path,
            security=_transport_security(
                bound, http.allowed_hosts.split(), http.browser_origins.split()
            ),
            shutdown=shutdown,
            limits=RequestLimits(http, (await runtime.services()).rates, is_full),
        )
        uvicorn = build_uvicorn(app, "on", head_bytes=http.header_bytes, keep_alive=_KEEP_ALIVE)
        async with run_uvicorn(uvicorn, listener, http.patience):
            yield HttpServer(bound, shutdown, runtime)


def _require_protected(address: ListenAddress, settings: Settings) -> None:
    """Check that callers and hosts are checked if other machines can reach the endpoint.

    Raises:
        ConfigurationError: They are not, or the port or path is wrong.
    """
    hosts = settings.http.allowed_hosts.split()
    if not 0 <= address.port <= _LAST_PORT:
        raise ConfigurationError(f"A port must be 0 to {_LAST_PORT}.")
    if not _PATH.fullmatch(address.path) or address.path.strip("/") in ("healthz", "readyz"):
        raise ConfigurationError(
            "--path must begin with /, have only letters, digits and . _ ~ - between slashes, and "
            "must not be /healthz or /readyz."
        )
    if settings.auth.mode == "none" and not (address.is_local and _all_local(hosts)):
        raise ConfigurationError(
            "The server would be reachable from other machines, so set CALLS_MCP_AUTH to tokens or "
            "oauth. To serve this machine only, use --host 127.0.0.1 without other hosts in "
            "CALLS_MCP_ALLOWED_HOSTS."
        )
    if not address.is_local and not hosts:
        raise ConfigurationError(
            f"The server would be reachable from other machines on {address.host}, so set "
            "CALLS_MCP_ALLOWED_HOSTS to the host names in the URLs that clients use, such as "
            "mcp.example.com."
        )


def _transport_security(
    address: ListenAddress, allowed: list[str], browser_origins: list[str]
) -> TransportSecuritySettings:
    """Return the allowed hosts and origins. Both are always checked."""
    hosts = [*_with_any_port(allowed)]
    origins = [f"{scheme}://{host}" for host in hosts for scheme in ("https", "http")]
    if address.is_local:
        own = [f"{name}:{address.port}" for name in ("127.0.0.1", "localhost", "[::1]")]
        own.append(address.authority)
        hosts += own
        origins += [f"http://{host}" for host in own]
    origins += browser_origins
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


def _all_local(hosts: list[str]) -> bool:
    return all(
        is_loopback(host if host.endswith("]") else host.partition(":")[0]) for host in hosts
    )


def _with_any_port(hosts: list[str]) -> list[str]:
    """Return the hosts, and each host without a port also with any port."""
    bare = [host for host in hosts if host.endswith("]") or ":" not in host]
    return [*hosts, *(f"{host}:*" for host in bare)]
