"""The server on a real socket, behind its gate."""

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx
import httpx2
import uvicorn
from mcp import Client
from mcp.client.session import ElicitationFnT
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from calls_mcp.authentication.verifier import open_verifier
from calls_mcp.http.authentication import Gate
from calls_mcp.http.limits import Reader
from calls_mcp.settings import Settings
from tests.rig import Agent, Rig, open_rig
from tests.upstream import TESTER

NO_HEADERS: Mapping[str, str] = {}
_META: dict[str, object] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
_INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
EVERYTHING = ("calls:read", "calls:place", "calls:change", "calls:delete")
TOMORROW = timedelta(days=1)


def entry(token: str, principal: str, *scopes: str, lasts: timedelta = TOMORROW) -> str:
    """The lines about a token in a file of principals."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    return (
        f'[[tokens]]\nprincipal = "{principal}"\nsha256 = "{digest}"\n'
        f"scopes = {[*scopes]}\nexpires = {(datetime.now(UTC) + lasts).isoformat()}\n"
    )


def write(file: Path, *entries: str) -> Path:
    """A file of principals."""
    file.write_text("\n".join(entries), "utf-8")
    return file


def gate_of(settings: Settings, clock: Callable[[], float] = time.monotonic) -> Gate:
    """The gate that the settings describe; `clock` tells how old the issuer's keys are."""
    return Gate(settings, open_verifier(settings, clock))


@asynccontextmanager
async def listening(
    app: ASGIApp, lifespan: Literal["on", "off"] = "off", at: socket.socket | None = None
) -> AsyncGenerator[str]:
    """Serve `app` on a free port of this machine, or on the one that listens `at`; its URL."""
    with at or socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, lifespan=lifespan, ws="none", log_config=None)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        ticking = asyncio.create_task(server.main_loop())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.force_exit = True
            ticking.cancel()
            await asyncio.wait([ticking])
            await server.shutdown(sockets=[listener])


def guarded(server: Server[Any], gate: Gate, *, permits: bool = True) -> ASGIApp:
    """The MCP app behind the gate, which looks at scopes only if it `permits`."""
    app = server.streamable_http_app()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with app.router.lifespan_context(app):
            yield

    read = Reader(gate.permit(app) if permits else app, 65_536, 10)
    return Starlette(routes=[*gate.routes, Mount("/", gate.guard(read))], lifespan=lifespan)


@dataclass
class Service:
    """A server at `url`."""

    url: str

    @asynccontextmanager
    async def connect(
        self,
        token: str,
        mode: Literal["auto", "legacy"] = "auto",
        user: ElicitationFnT | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        sessions: list[str] | None = None,
        auth: httpx2.Auth | None = None,
    ) -> AsyncGenerator[Agent]:
        """A client with this token, or which gets one by `auth`.

        It sends `headers`, too; the ids of its sessions go to `sessions`.
        """
        told = sessions if sessions is not None else []

        async def note(response: httpx2.Response) -> None:
            if session := response.headers.get("Mcp-Session-Id"):
                told.append(session)

        async with httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {token}", **headers} if token else headers,
            auth=auth,
            event_hooks={"response": [note]},
            timeout=30,
            trust_env=False,
        ) as http:
            transport = streamable_http_client(f"{self.url}/mcp", http_client=http)
            async with Client(
                transport, mode=mode, elicitation_callback=user, client_info=TESTER, cache=None
            ) as client:
                yield Agent(client)

    async def post(
        self, authorization: str | None, body: bytes = b"{}", **headers: str
    ) -> httpx.Response:
        """Send a request by hand; the names of `headers` are told with hyphens."""
        given = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        if authorization is not None:
            given["Authorization"] = authorization
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            latin = httpx.Headers(given, encoding="latin-1")
            return await client.post(f"{self.url}/mcp", content=body, headers=latin)

    async def modern(self, token: str, method: str, **params: object) -> httpx.Response:
        """Send a request of the 2026-07-28 revision by hand."""
        name = params.get("name")
        headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
        headers |= {"Mcp-Name": name} if isinstance(name, str) else {}
        body = message(method, **params, _meta=_META)
        return await self.post(f"Bearer {token}", body, **headers)

    async def session(self, token: str, **capabilities: object) -> str:
        """Open a session of an earlier revision; its id."""
        info = {"name": "tester", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": capabilities}
        body = message("initialize", **params, clientInfo=info)
        session = (await self.post(f"Bearer {token}", body)).headers["Mcp-Session-Id"]
        await self.legacy(token, session, json.dumps(_INITIALIZED).encode())
        return session

    async def legacy(self, token: str, session: str, body: bytes) -> httpx.Response:
        """Send a message of an earlier revision by hand."""
        headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}
        return await self.post(f"Bearer {token}", body, **headers)

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            return await client.get(self.url + path)


@dataclass
class EmulatedService(Service):
    """A server at `url`, on an emulator."""

    rig: Rig


@asynccontextmanager
async def serving(
    settings: Mapping[str, object],
    *,
    clock: Callable[[], float] = time.monotonic,
    listener: socket.socket | None = None,
) -> AsyncGenerator[EmulatedService]:
    """A server with these settings on an emulator, behind the gate that they describe.

    `clock` tells how old the issuer's keys are.
    """
    async with open_rig(sandbox=False, **settings) as rig:
        gate = gate_of(rig.runtime.settings, clock)
        async with listening(guarded(rig.server, gate), "on", listener) as url:
            yield EmulatedService(url, rig)


def challenge(response: httpx.Response) -> Mapping[str, str]:
    """What the `WWW-Authenticate` of a refusal says."""
    scheme, _, told = response.headers["WWW-Authenticate"].partition(" ")
    assert scheme == "Bearer"
    pairs = (part.partition("=") for part in told.split(", "))
    return {name: value.strip('"') for name, _, value in pairs}


def message(method: str, **params: object) -> bytes:
    """A request as it is sent."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def result(response: httpx.Response) -> dict[str, Any]:
    """The result in an answer, whether it came as JSON or as a stream of events."""
    assert response.status_code == 200, response.text
    told = json.loads(response.text.rpartition("data: ")[2])
    return told["result"]
