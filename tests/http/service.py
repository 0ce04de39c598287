"""The whole service on a real socket in this process, with an emulator and clients."""

import hashlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import anyio
import httpx
import httpx2
from anyio.abc import SocketStream
from mcp import Client
from mcp.client.session import ElicitationFnT
from mcp.client.streamable_http import streamable_http_client
from mcp_types import Implementation

from calls_mcp.http.serving import HttpServer, ListenAddress, open_server
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from tests.harness import PERMISSIVE, Agent, Era, Harness, open_harness
from tests.plain_http import NO_CERTIFICATES
from tests.upstream import Exchange, Step, Upstream, access, answer, call, page

MODERN, LEGACY = "2026-07-28", "2025-11-25"
NO_HEADERS: Mapping[str, str] = {}
TOMORROW = timedelta(days=1)
YES = {"confirm": {"action": "accept", "content": {"approve": True}}}
EVERYTHING = ("calls:read", "calls:place", "calls:change", "calls:delete")
_ACCEPTED = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


@dataclass
class Client2026:
    """Builds requests of the 2026-07-28 revision by hand."""

    capabilities: Mapping[str, object] = field(default_factory=dict[str, object])

    def body(self, method: str, **params: object) -> dict[str, Any]:
        """Return the JSON-RPC message."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": dict(self.capabilities),
        }
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}

    def headers(self, method: str, name: object = None) -> dict[str, str]:
        """Return the headers that must match the message."""
        named = {} if name is None else {"Mcp-Name": str(name)}
        return {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, **named}


@dataclass
class Service:
    """A service at `url`; its clients send `token`, if it is not empty."""

    url: str
    token: str = ""

    @property
    def root(self) -> str:
        """Return the URL without the path."""
        return self.url.removesuffix(urlsplit(self.url).path)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def of(self, token: str) -> Self:
        """Return the same service with another token."""
        return replace(self, token=token)

    @asynccontextmanager
    async def connect(
        self,
        mode: Era = "auto",
        user: ElicitationFnT | None = None,
        name: str = "tester",
        headers: Mapping[str, str] = NO_HEADERS,
        auth: httpx2.Auth | None = None,
    ) -> AsyncGenerator[Agent]:
        """Connect a client. With a `user`, it supports elicitation. It also sends `headers`."""
        info = Implementation(name=name, version="1")
        given = {**self._headers, **headers}
        http = httpx2.AsyncClient(
            headers=given, auth=auth, timeout=60, verify=NO_CERTIFICATES, trust_env=False
        )
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

    async def place(self) -> str:
        """Place a call and return its SID."""
        async with self.connect() as agent:
            return await agent.place()

    def http(self) -> httpx.AsyncClient:
        """Return an HTTP client with the usual headers."""
        headers = {**_ACCEPTED, **self._headers}
        return httpx.AsyncClient(
            headers=headers, timeout=60, verify=NO_CERTIFICATES, trust_env=False
        )

    async def post(self, body: object, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Send a body: bytes unchanged, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        latin = httpx.Headers(headers, encoding="latin-1")
        async with self.http() as http:
            return await http.post(self.url, content=content, headers=latin)

    async def ask(self, method: str, **params: object) -> httpx.Response:
        """Send a request of the 2026-07-28 revision."""
        raw = Client2026()
        headers = raw.headers(method, params.get("name"))
        return await self.post(raw.body(method, **params), headers)

    async def tool(
        self, name: str, arguments: Mapping[str, object], **params: object
    ) -> dict[str, Any]:
        """Call a tool as a client of that revision with elicitation; return the result."""
        raw = Client2026({"elicitation": {"form": {}}})
        return await self.tool_from(raw, name, arguments, **params)

    async def tool_from(
        self, raw: Client2026, name: str, arguments: Mapping[str, object], **params: object
    ) -> dict[str, Any]:
        """Call a tool as this client; return the result."""
        body = raw.body("tools/call", name=name, arguments={**arguments}, **params)
        response = await self.post(body, raw.headers("tools/call", name))
        result: dict[str, Any] = response.json()["result"]
        return result

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Get another path of the server."""
        async with self.http() as http:
            return await http.get(self.root + path, headers=headers)

    async def open_session(self, **capabilities: object) -> httpx.Response:
        """Send `initialize` as an older client does."""
        return await self.post(initialize(**capabilities))

    async def session(self, **capabilities: object) -> str:
        """Open a session completely and return its id."""
        opened = await self.open_session(**capabilities)
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await self.post(initialized, in_session(opened))
        return opened.headers["mcp-session-id"]

    async def legacy(self, session: str, body: object) -> httpx.Response:
        """Send a message of an earlier revision in a session."""
        headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}
        return await self.post(body, headers)

    def head(self, *lines: str) -> bytes:
        """Return the head of a POST with these header lines, to send over a raw connection."""
        url = urlsplit(self.url)
        first = (f"POST {url.path} HTTP/1.1", f"Host: {url.netloc}")
        accepted = (f"{name}: {value}" for name, value in _ACCEPTED.items())
        return "\r\n".join([*first, *accepted, *lines, "", ""]).encode()

    async def connection(self) -> SocketStream:
        """Open a raw connection to the server."""
        parts = urlsplit(self.url)
        return await anyio.connect_tcp(parts.hostname or "", parts.port or 0)


@dataclass
class LocalService(Service):
    """A service in this process."""

    harness: Harness = field(kw_only=True)
    server: HttpServer = field(kw_only=True)


@asynccontextmanager
async def open_service(*, token: str = "", **settings: object) -> AsyncGenerator[LocalService]:
    """Start a service with `settings` (by field name), backed by an emulator."""
    async with (
        open_harness(sandbox=False, **settings) as harness,
        serve_harness(harness, token) as service,
    ):
        yield service


@asynccontextmanager
async def serve_harness(
    harness: Harness, token: str = "", port: int = 0
) -> AsyncGenerator[LocalService]:
    """Serve a harness's server over HTTP."""
    async with open_server(harness.server, harness.runtime, ListenAddress(port=port)) as server:
        yield LocalService(server.address.url, token, harness=harness, server=server)
        server.shutdown.cancel_requests()


@dataclass
class StubbedService(Service):
    """A service backed by a stub of the API."""

    server: HttpServer = field(kw_only=True)
    upstream: Upstream = field(kw_only=True)


@asynccontextmanager
async def stubbed_service(
    step: Step,
    *,
    token: str = "",
    deadline: float = 5,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    **settings: object,
) -> AsyncGenerator[StubbedService]:
    """Start a service with `settings`, backed by a stub that answers every request with `step`."""
    given = load_settings({"calls_mcp_policy": PERMISSIVE} | settings)
    async with Upstream(step) as upstream:
        to_it = access(upstream.base_url, deadline=deadline)
        async with (
            Runtime(given, to_it, clock=clock, monotonic=monotonic) as runtime,
            open_server(build_server(runtime), runtime, ListenAddress(port=0)) as server,
        ):
            yield StubbedService(server.address.url, token, server=server, upstream=upstream)
            server.shutdown.cancel_requests()


@dataclass
class Wait:
    """A slow stub: it sets `asked` when it gets a request, and answers once `answered` is set."""

    asked: anyio.Event = field(default_factory=anyio.Event)
    answered: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, exchange: Exchange) -> None:
        self.asked.set()
        await self.answered.wait()
        is_list = exchange.request.method == "GET"
        await answer(200 if is_list else 201, page() if is_list else call())(exchange)


@asynccontextmanager
async def slow_service(**settings: object) -> AsyncGenerator["SlowService"]:
    """Start a service, backed by a slow stub (see `Wait`), whose changes need no confirmation."""
    given: dict[str, Any] = {"calls_mcp_confirm": "none"} | settings
    wait = Wait()
    async with stubbed_service(wait, **given) as on:
        yield SlowService(
            on.url, server=on.server, upstream=on.upstream, asked=wait.asked, answered=wait.answered
        )
        wait.answered.set()


@dataclass
class SlowService(StubbedService):
    """A service backed by a slow stub."""

    asked: anyio.Event = field(kw_only=True)
    answered: anyio.Event = field(kw_only=True)


def entry(token: str, principal: str, *scopes: str, lasts: timedelta = TOMORROW) -> str:
    """Return the lines of a token in a principals file."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    return (
        f'[[tokens]]\nprincipal = "{principal}"\nsha256 = "{digest}"\n'
        f"scopes = {[*scopes]}\nexpires = {(datetime.now(UTC) + lasts).isoformat()}\n"
    )


def write(file: Path, *entries: str) -> Path:
    """Write a principals file and return its path."""
    file.write_text("\n".join(entries), "utf-8")
    return file


def principals(file: Path, *tokens: str) -> Path:
    """Write a principals file. Each principal is named like their token, and has all scopes."""
    return write(file, *(entry(token, token, *EVERYTHING) for token in tokens))


def by_tokens(file: Path, **settings: object) -> dict[str, Any]:
    """Return `settings` and those of authentication by the tokens in `file`."""
    return {"calls_mcp_auth": "tokens", "calls_mcp_principals": file, **settings}


def message(method: str, **params: object) -> bytes:
    """Return the body of a request of an earlier revision."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def result(response: httpx.Response) -> dict[str, Any]:
    """Return the result in a response, which may be JSON or an event stream."""
    assert response.status_code == 200, response.text
    return json.loads(response.text.rpartition("data: ")[2])["result"]


def challenge(response: httpx.Response) -> Mapping[str, str]:
    """Return the fields of the `WWW-Authenticate` header."""
    scheme, _, fields = response.headers["WWW-Authenticate"].partition(" ")
    assert scheme == "Bearer"
    pairs = (part.partition("=") for part in fields.split(", "))
    return {name: value.strip('"') for name, _, value in pairs}


def initialize(**capabilities: object) -> dict[str, object]:
    """Return the body of the request with which an older client opens a session."""
    params = {
        "protocolVersion": LEGACY,
        "capabilities": capabilities,
        "clientInfo": {"name": "raw", "version": "1"},
    }
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}


def in_session(opened: httpx.Response) -> dict[str, str]:
    """Return the headers of later requests in a session, from the response that opened it."""
    session = opened.headers["mcp-session-id"]
    return {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}


async def rest_of(stream: SocketStream) -> bytes:
    """Return everything received until the other end closes the connection."""
    received = bytearray()
    try:
        while True:
            received += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return bytes(received)
