"""An HTTP server process, and minimal clients."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import psutil

from calls_mcp.emulator import DEFAULT_ACCOUNT
from tests.benchmarks.stdio_server import UNTHROTTLED
from tests.isolation import without_state
from tests.storage.redis_server import free_port

OURS = ("-m", "calls_mcp", "serve", "--transport", "http", "--port", "{port}")
SMALLEST = ("-m", "tests.benchmarks.smallest_http", "{port}")

_REVISION = "2026-07-28"
_LIMITS = ("RATE", "RATE_IN_ALL", "CONCURRENCY", "CONCURRENCY_IN_ALL", "SESSIONS")
_UNBOUNDED = {f"CALLS_MCP_HTTP_{name}": "1000000" for name in _LIMITS}
_ACCEPT = {"Accept": "application/json, text/event-stream"}


class Service:
    """A server that listens on `port`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.port = port
        self._process = psutil.Process(process.pid)

    @property
    def memory(self) -> float:
        """Return its memory in MB."""
        return self._process.memory_info().rss / 1e6

    @property
    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used."""
        return cpu_seconds(self._process)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time that a process has used."""
    used = process.cpu_times()
    return used.user + used.system


@contextmanager
def serving(arguments: Sequence[str], api: str, **environment: str) -> Generator[Service]:
    """Start a server for the API at this URL, with very high limits."""
    port = free_port()
    variables = {
        "TWILIO_ACCOUNT_SID": DEFAULT_ACCOUNT.sid,
        "TWILIO_AUTH_TOKEN": DEFAULT_ACCOUNT.auth_token,
        "CALLS_MCP_API_BASE_URL": api,
        "PATH": os.defpath,
        **without_state(),
        **UNTHROTTLED,
        **_UNBOUNDED,
        **environment,
    }
    command = [sys.executable, *(part.format(port=port) for part in arguments)]
    with subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        try:
            _wait_for(port)
            yield Service(process, port)
        finally:
            process.terminate()


def in_parallel(clients: int, work: Callable[[int], Coroutine[object, object, None]]) -> float:
    """Return the seconds that this many clients, numbered from 0, take."""
    return anyio.run(_all, clients, work)


async def repeat(port: int, request: bytes, times: int) -> None:
    """Send a request repeatedly, and read only as much of the responses as needed."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        for _ in range(times):
            await stream.send(request)
            told = bytearray()
            while not _is_whole(told):
                told += await stream.receive()
            assert b'"completed"' in told, told


async def invoke(
    http: httpx.AsyncClient, port: int, tool: str, arguments: Mapping[str, object]
) -> dict[str, Any]:
    """Call a tool; return the structured content of its result."""
    answer = await http.send(_request(port, tool, arguments))
    data = answer.text.partition("data: ")[2] or answer.text
    return json.loads(data)["result"]["structuredContent"]


def fetching(port: int, sid: str) -> bytes:
    """Return the bytes of a request for one call."""
    request = _request(port, "fetch_call", {"sid": sid})
    lines = [b"POST /mcp HTTP/1.1", *(name + b": " + value for name, value in request.headers.raw)]
    return b"\r\n".join([*lines, b"", request.content])


def _request(port: int, tool: str, arguments: Mapping[str, object]) -> httpx.Request:
    meta = {
        "io.modelcontextprotocol/protocolVersion": _REVISION,
        "io.modelcontextprotocol/clientInfo": {"name": "benchmarks", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": tool, "arguments": {**arguments}, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {
        "MCP-Protocol-Version": _REVISION,
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
        **_ACCEPT,
    }
    return httpx.Request("POST", _endpoint(port), headers=headers, json=message)


async def open_session(http: httpx.AsyncClient, port: int) -> None:
    """Open a session as clients of earlier revisions do."""
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "benchmarks", "version": "1"},
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    answer = await http.post(_endpoint(port), headers=_ACCEPT, json=message)
    assert "mcp-session-id" in answer.headers, answer.text


def _endpoint(port: int) -> str:
    return f"http://127.0.0.1:{port}/mcp"


def _wait_for(port: int) -> None:
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz")
        except httpx.ConnectError:
            time.sleep(0.05)
        else:
            return


async def _all(clients: int, work: Callable[[int], Coroutine[object, object, None]]) -> float:
    begun = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(clients):
            tasks.start_soon(work, number)
    return time.perf_counter() - begun


def _is_whole(told: bytearray) -> bool:
    head, found, body = told.partition(b"\r\n\r\n")
    if not found:
        return False
    if b"transfer-encoding: chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    length = next(
        line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    return len(body) >= int(length.partition(b":")[2])
