"""fetch_call over HTTP by many at once, beside the smallest server that does the same GET."""

import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import anyio
import httpx
import psutil

from calls_mcp.emulator import DEFAULT_ACCOUNT
from tests.benchmarks.figure import Figure, in_turn
from tests.benchmarks.peer import UNTHROTTLED
from tests.benchmarks.upstream import emulator
from tests.store.redis_server import free_port

_CLIENTS, _EACH = 64, 20
_ROUNDS = 7
_MANY, _WARM = 100_000, 60_000
_REVISION = "2026-07-28"
_LIMITS = ("RATE", "RATE_IN_ALL", "CONCURRENCY", "CONCURRENCY_IN_ALL")
_UNBOUNDED = {f"CALLS_MCP_HTTP_{name}": "1000000" for name in _LIMITS}


def figures() -> Iterator[Figure]:
    """Both figures."""
    smallest = ("-m", "tests.benchmarks.smallest_http", "{port}")
    ours = ("-m", "calls_mcp", "serve", "--transport", "http", "--port", "{port}")
    with emulator() as api, _serving(ours, api) as us, _serving(smallest, api) as them:
        sid = _a_call(api)
        pace = [partial(_seconds, server.port, sid, _CLIENTS * _EACH) for server in (us, them)]
        mine, theirs = in_turn(*pace, rounds=_ROUNDS)
        yield Figure("fetch_call by 64 at once, to the smallest", "s", 1 / 0.9, mine, theirs)
        _seconds(us.port, sid, _WARM)  # caches, and a minute of rates
        before = us.memory
        _seconds(us.port, sid, _MANY)
        grown = [us.memory / before]
    yield Figure("memory after 100,000 more, to before", "times", 1.05, grown, is_absolute=True)


class _Served:
    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.port = port
        self._process = process

    @property
    def memory(self) -> float:
        """What it occupies, in MB."""
        return psutil.Process(self._process.pid).memory_info().rss / 1e6


@contextmanager
def _serving(arguments: Sequence[str], api: str) -> Generator[_Served]:
    port = free_port()
    environment = {
        "TWILIO_ACCOUNT_SID": DEFAULT_ACCOUNT.sid,
        "TWILIO_AUTH_TOKEN": DEFAULT_ACCOUNT.auth_token,
        "CALLS_MCP_API_BASE_URL": api,
        "PATH": os.defpath,
        **UNTHROTTLED,
        **_UNBOUNDED,
    }
    command = [sys.executable, *(part.format(port=port) for part in arguments)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        try:
            _wait_for(port)
            yield _Served(process, port)
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz")
        except httpx.ConnectError:
            time.sleep(0.05)
        else:
            return


def _a_call(api: str) -> str:
    account = DEFAULT_ACCOUNT
    url = f"{api}/2010-04-01/Accounts/{account.sid}/Calls.json?PageSize=1"
    sid: str = httpx.get(url, auth=(account.sid, account.auth_token)).json()["calls"][0]["sid"]
    return sid


def _seconds(port: int, sid: str, requests: int) -> float:
    """How long so many requests take, by 64 clients."""
    return anyio.run(_all, port, sid, requests // _CLIENTS)


async def _all(port: int, sid: str, each: int) -> float:
    begun = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(_CLIENTS):
            tasks.start_soon(_one, port, sid, each)
    return time.perf_counter() - begun


async def _one(port: int, sid: str, times: int) -> None:
    """A client that sends one request after the other, and reads no more than it must."""
    request = _request(port, sid)
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        for _ in range(times):
            await stream.send(request)
            told = bytearray()
            while not _is_whole(told):
                told += await stream.receive()
            assert b'"completed"' in told, told


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


def _request(port: int, sid: str) -> bytes:
    """A request as it goes over the wire."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": _REVISION,
        "io.modelcontextprotocol/clientInfo": {"name": "benchmarks", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "fetch_call", "arguments": {"sid": sid}, "_meta": meta}
    told = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {
        "MCP-Protocol-Version": _REVISION,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "fetch_call",
        "Accept": "application/json, text/event-stream",
    }
    request = httpx.Request("POST", f"http://127.0.0.1:{port}/mcp", headers=headers, json=told)
    lines = [b"POST /mcp HTTP/1.1", *(name + b": " + value for name, value in request.headers.raw)]
    return b"\r\n".join([*lines, b"", request.content])
