"""The whole service on a real socket, in this process: a server on an emulator, and its clients."""

import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import anyio
import httpx
import httpx2
from anyio.abc import SocketStream
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import Implementation

from calls_mcp.http.endpoint import Endpoint
from calls_mcp.http.serving import Site, listening
from calls_mcp.runtime import Runtime
from calls_mcp.server import build_server
from calls_mcp.settings import load_settings
from tests.rig import PERMISSIVE, Agent, Rig, User, access_to, open_rig
from tests.upstream import Exchange, Upstream, answer, call, page

MODERN, LEGACY = "2026-07-28", "2025-11-25"
EVERYTHING = ("calls:read", "calls:place", "calls:change", "calls:delete")
_ACCEPTED = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


@dataclass
class Client2026:
    """Builds requests of the 2026-07-28 revision by hand."""

    capabilities: Mapping[str, object] = field(default_factory=dict[str, object])

    def body(self, method: str, **params: object) -> dict[str, Any]:
        """The JSON-RPC message."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": dict(self.capabilities),
        }
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}

    def headers(self, method: str, name: object = None) -> dict[str, str]:
        """The headers that tell the same as the message."""
        named = {} if name is None else {"Mcp-Name": str(name)}
        return {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, **named}


@dataclass
class Service:
    """A service at `url`; `token` is what its clients show, if anything."""

    url: str
    token: str = ""

    @property
    def root(self) -> str:
        """Its URL without the path."""
        return self.url.removesuffix(urlsplit(self.url).path)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @asynccontextmanager
    async def connect(
        self,
        mode: Literal["auto", "legacy"] = "auto",
        user: User | None = None,
        name: str = "tester",
    ) -> AsyncGenerator[Agent]:
        """A client; with a `user`, one that can ask somebody."""
        info = Implementation(name=name, version="1")
        http = httpx2.AsyncClient(headers=self._headers, timeout=60, trust_env=False)
        async with (
            http,
            Client(
                streamable_http_client(self.url, http_client=http),
                mode=mode,
                elicitation_callback=user,
                client_info=info,
                cache=None,
            ) as client,
        ):
            yield Agent(client)

    def http(self) -> httpx.AsyncClient:
        """What sends requests by hand."""
        headers = {**_ACCEPTED, **self._headers}
        return httpx.AsyncClient(headers=headers, timeout=60, trust_env=False)

    async def post(self, body: object, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Send a body: bytes as they are, all else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.http() as http:
            return await http.post(self.url, content=content, headers=headers)

    async def ask(self, method: str, **params: object) -> httpx.Response:
        """Send a request of the 2026-07-28 revision."""
        raw = Client2026()
        headers = raw.headers(method, params.get("name"))
        return await self.post(raw.body(method, **params), headers)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Get something beside the endpoint."""
        async with self.http() as http:
            return await http.get(self.root + path, headers=headers)

    async def open_session(self, **capabilities: object) -> httpx.Response:
        """Shake hands as an older client does."""
        told = {
            "protocolVersion": LEGACY,
            "capabilities": capabilities,
            "clientInfo": {"name": "raw", "version": "1"},
        }
        return await self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": told})

    def head(self, *lines: str) -> bytes:
        """The head of a POST with these lines, to be sent over a bare connection."""
        told = (f"POST {urlsplit(self.url).path} HTTP/1.1", f"Host: {urlsplit(self.url).netloc}")
        accepted = (f"{name}: {value}" for name, value in _ACCEPTED.items())
        return "\r\n".join([*told, *accepted, *lines, "", ""]).encode()

    async def connection(self) -> SocketStream:
        """A bare connection to it."""
        parts = urlsplit(self.url)
        return await anyio.connect_tcp(parts.hostname or "", parts.port or 0)


@dataclass
class Here(Service):
    """A service in this process."""

    rig: Rig = field(kw_only=True)
    site: Site = field(kw_only=True)

    def of(self, token: str) -> "Here":
        """The same for somebody else."""
        return Here(self.url, token, rig=self.rig, site=self.site)


@asynccontextmanager
async def open_site(*, token: str = "", **settings: object) -> AsyncGenerator[Here]:
    """A service with `settings` (by field name) on an emulator."""
    async with (
        open_rig(sandbox=False, **settings) as rig,
        listening(rig.server, rig.runtime, Endpoint(port=0)) as site,
    ):
        yield Here(site.endpoint.url, token, rig=rig, site=site)
        site.drain.break_off()


@asynccontextmanager
async def slow_site(**settings: object) -> AsyncGenerator["Slow"]:
    """A service on a stand-in that answers when it is told to; changes need no confirmation."""
    given = {"calls_mcp_confirm": "none", "calls_mcp_policy": PERMISSIVE} | settings
    asked, answered = anyio.Event(), anyio.Event()

    async def wait(exchange: Exchange) -> None:
        asked.set()
        await answered.wait()
        is_list = exchange.request.method == "GET"
        await answer(200 if is_list else 201, page() if is_list else call())(exchange)

    async with (
        Upstream(wait) as upstream,
        Runtime(load_settings(given), access_to(upstream.base_url)) as runtime,
        listening(build_server(runtime), runtime, Endpoint(port=0)) as site,
    ):
        yield Slow(site.endpoint.url, site=site, upstream=upstream, asked=asked, answered=answered)
        answered.set()
        site.drain.break_off()


@dataclass
class Slow(Service):
    """A service on a slow stand-in: `asked` once it has a request, it answers when `answered`."""

    site: Site = field(kw_only=True)
    upstream: Upstream = field(kw_only=True)
    asked: anyio.Event = field(kw_only=True)
    answered: anyio.Event = field(kw_only=True)


def principals(file: Path, *tokens: str) -> Path:
    """A file of principals, each named like their token, who may do everything."""
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    entries = (
        f'[[tokens]]\nprincipal = "{token}"\n'
        f'sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
        f"scopes = {[*EVERYTHING]}\nexpires = {until}\n"
        for token in tokens
    )
    file.write_text("\n".join(entries), "utf-8")
    return file


def in_session(opened: httpx.Response) -> dict[str, str]:
    """The headers of what goes on in a session, by the answer that opened it."""
    session = opened.headers["mcp-session-id"]
    return {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}


async def rest_of(stream: SocketStream) -> bytes:
    """All that still comes, until the other end closes the connection."""
    received = bytearray()
    try:
        while True:
            received += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return bytes(received)
