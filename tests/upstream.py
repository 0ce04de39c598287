"""A scripted test server for the Calls API on a real socket, which can fail in many ways."""

import asyncio
import json
import socket
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from mcp import Client
from mcp_types import CallToolResult, Implementation

from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Access, load_settings
from tests.harness import ACCOUNT, PERMISSIVE, Agent, access_to, text_of

SID = "CA" + "1" * 32
TESTER = Implementation(name="tester", version="1")
PATH = f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json"

# A random secret: if it appears anywhere, it was leaked.
SECRET = "5ecre7c4na12y5ecre7c4na12y000777"


@dataclass(frozen=True)
class Request:
    """A request as received; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


@dataclass(frozen=True)
class Exchange:
    """A request, and its connection."""

    request: Request
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Step = Callable[[Exchange], Awaitable[None]]
Tool = tuple[str, dict[str, object]]
"""A tool's name and arguments for it."""


def answer(
    status: int = 200,
    body: object = b"",
    *,
    headers: Mapping[str, str] | None = None,
    length: int | None = None,
) -> Step:
    """Respond with `body`: bytes or text unchanged, anything else as JSON.

    A `length` beyond the body's truncates the response.
    """
    data = body if isinstance(body, bytes) else _encoded(body)
    kind = "text/html" if isinstance(body, str) else "application/json"
    fields = {"Content-Type": kind, **(headers or {})}
    if status != HTTPStatus.NO_CONTENT:
        fields["Content-Length"] = str(len(data) if length is None else length)

    async def play(exchange: Exchange) -> None:
        await exchange.send(_head(status, fields) + data)
        if length is not None:
            exchange.writer.close()

    return play


def redirect(location: str) -> Step:
    """Redirect the client."""
    return answer(302, headers={"Location": location})


def endless(chunk: bytes) -> Step:
    """Respond with a body that never ends, `chunk` by `chunk`."""

    async def play(exchange: Exchange) -> None:
        await exchange.send(_head(200, {"Content-Type": "application/json"}))
        while True:
            await exchange.send(chunk)
            await asyncio.sleep(0)  # lets other tasks run

    return play


async def drop(exchange: Exchange) -> None:
    """Close the connection after reading the request."""
    exchange.writer.close()


async def drop_unread(exchange: Exchange) -> None:
    """Close the connection before reading anything."""
    exchange.writer.close()


async def hang(exchange: Exchange) -> None:
    """Send nothing until the client disconnects."""
    await exchange.reader.read()


class Upstream:
    """Plays one step per request, and the last one for all further requests.

    `opens` says whether it listens from the start. Otherwise it refuses connections until `open`.
    """

    def __init__(self, *steps: Step, opens: bool = True) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._steps = steps
        self._opens = opens
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    @property
    def methods(self) -> list[str]:
        return [request.method for request in self.requests]

    @property
    def changes(self) -> list[Request]:
        """The requests that were not reads."""
        return [request for request in self.requests if request.method != "GET"]

    @property
    def bodies(self) -> dict[str, bytes]:
        """What was sent to each target, all bodies in one."""
        bodies = defaultdict[str, bytes](bytes)
        for request in self.requests:
            bodies[request.target] += request.body
        return bodies

    async def open(self) -> None:
        """Start to accept connections."""
        await self._server.start_serving()

    def leave(self) -> None:
        """Refuse further connections, and keep the open ones."""
        self._server.close()

    async def __aenter__(self) -> Self:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(
            self._serve, sock=self._socket, start_serving=self._opens
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._socket.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        # The exchange ends when the client disconnects or the test ends.
        with closing(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            if self._step() is drop_unread:
                self._next += 1
                return
            while not writer.is_closing():
                request = await _read(reader)
                self.requests.append(request)
                step = self._step()
                self._next += 1
                await step(Exchange(request, reader, writer))

    def _step(self) -> Step:
        return self._steps[min(self._next, len(self._steps) - 1)]


@contextmanager
def refusing() -> Generator[str]:
    """Yield the URL of a port that is in use but accepts no connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def call(**fields: object) -> dict[str, Any]:
    """Return a call as the API represents it."""
    known = {
        "sid": SID,
        "account_sid": ACCOUNT,
        "status": "queued",
        "direction": "outbound-api",
        "from": "+15005550006",
        "to": "+15005550205",
        "date_created": "Tue, 14 Nov 2023 22:13:20 +0000",
        "price_unit": "USD",
    }
    return known | fields


def page(*calls: object, following: object = None) -> dict[str, Any]:
    """Return a page of a list as the API represents it; `following` is its next_page_uri."""
    return {"calls": [*calls], "page": 0, "page_size": 50, "next_page_uri": following}


def access(base_url: str, *, timeout: float = 5, deadline: float = 5) -> Access:
    """Return access with its own secret."""
    return replace(access_to(base_url, timeout=timeout, deadline=deadline), password=SECRET)


@asynccontextmanager
async def serving(access: Access, **settings: object) -> AsyncGenerator[Agent]:
    """Connect a client to a server with this `access` that needs no confirmation."""
    loaded = load_settings({"calls_mcp_confirm": "none", "calls_mcp_policy": PERMISSIVE} | settings)
    async with (
        Runtime(loaded, access) as runtime,
        Client(build_server(runtime), cache=None, client_info=TESTER) as client,
    ):
        yield Agent(client)


@asynccontextmanager
async def scripted(
    *steps: Step, step_timeout: float = 5, deadline: float = 5, **settings: object
) -> AsyncGenerator[tuple[Upstream, Agent]]:
    """Start an API that plays `steps`, and connect a client to a server that uses it."""
    async with Upstream(*steps) as upstream:
        reached = access(upstream.base_url, timeout=step_timeout, deadline=deadline)
        async with serving(reached, **settings) as agent:
            yield upstream, agent


async def use(agent: Agent, tool: Tool) -> dict[str, Any]:
    """Call a tool. Return the structured content of the result."""
    name, arguments = tool
    return await agent.call(name, **arguments)


async def error_of(agent: Agent, tool: Tool) -> dict[str, Any]:
    """Call a tool that must fail. Return the error, which the text must contain, too."""
    result = await agent.client.call_tool(*tool)
    error = failure_in(result)
    assert text_of(result).startswith(f"{error['kind']}: {error['message']}\n")
    assert error["hint"] in text_of(result)
    return error


def failure_in(result: CallToolResult) -> dict[str, Any]:
    """Return the error in a result that must be an error."""
    assert result.is_error
    content: dict[str, Any] = result.structured_content
    assert content.keys() == {"outcome", "error"}
    assert content["outcome"] == "error"
    error: dict[str, Any] = content["error"]
    return error


def _encoded(body: object) -> bytes:
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.splitlines()
    method, target, _ = first.split(" ")
    pairs = [line.partition(":") for line in lines if line]
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body)
