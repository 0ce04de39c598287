"""A console on a socket, a server that uses an emulator, and HTTP clients of the console."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import httpx

from calls_mcp.console import Address, ConsoleContext, open_console
from calls_mcp.settings import load_settings
from tests import harness as base
from tests.guard.test_policy import policy
from tests.harness import placing
from tests.plain_http import NO_CERTIFICATES

_CODE = re.compile(r'data-code="([^"]+)"')
_NEXT = re.compile(r'<a href="([^"]+)" rel="next"')


@dataclass
class WebClient:
    """A browser without JavaScript, which sends the headers of a real one.

    `code` is the decision code of the session, once signed in.
    """

    http: httpx.AsyncClient
    url: str
    code: str = ""

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return await self.http.get(self.url + path, headers=headers)

    async def get_with_token(self, token: str, path: str = "/approvals") -> httpx.Response:
        return await self.get(path, {"Authorization": f"Bearer {token}"})

    async def read(self, path: str) -> str:
        """The HTML of a page."""
        response = await self.get(path)
        assert response.status_code == 200, response.text
        return response.text

    async def read_all(self, path: str) -> list[str]:
        """The HTML of a page and of all following pages."""
        pages = [await self.read(path)]
        while found := _NEXT.search(pages[-1]):
            pages.append(await self.read(unescape(found[1])))
        return pages

    async def post(
        self, path: str, headers: Mapping[str, str] | None = None, **fields: str
    ) -> httpx.Response:
        sent = {"Origin": self.url} | dict(headers or {})
        return await self.http.post(self.url + path, data=fields, headers=sent)

    async def decide(self, path: str, **fields: str) -> httpx.Response:
        """Submit a form with the decision code."""
        return await self.post(path, None, code=self.code, **fields)

    async def submit_token(self, token: str, wanted: str = "/approvals") -> httpx.Response:
        """Sign in with a token, for the page `wanted`."""
        return await self._sign_in(token=token, next=wanted)

    async def submit_link(self, link: str) -> httpx.Response:
        return await self._sign_in(link=link.partition("?link=")[2])

    async def _sign_in(self, **fields: str) -> httpx.Response:
        response = await self.post("/sign-in", None, **fields)
        if found := _CODE.search(response.text):
            self.code = found[1]
        return response

    @asynccontextmanager
    async def events(self, topic: str) -> AsyncGenerator[AsyncIterator[str]]:
        """The events of a topic, until the stream ends."""
        async with self.http.stream("GET", f"{self.url}/events?topic={topic}") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            yield (line async for line in stream.aiter_lines() if line.startswith("data:"))


@asynccontextmanager
async def anonymous(console: ConsoleContext) -> AsyncGenerator[WebClient]:
    """A client that is not signed in."""
    async with httpx.AsyncClient(timeout=30, verify=NO_CERTIFICATES, trust_env=False) as http:
        yield WebClient(http, console.url)


@asynccontextmanager
async def sign_in(console: ConsoleContext, name: str = "ann") -> AsyncGenerator[WebClient]:
    """A client that has signed in with a link."""
    async with anonymous(console) as client:
        assert (await client.submit_link(console.link(name))).status_code == 200
        yield client


@asynccontextmanager
async def sign_in_with_token(console: ConsoleContext, token: str) -> AsyncGenerator[WebClient]:
    """A client that has signed in with a token."""
    async with anonymous(console) as client:
        assert (await client.submit_token(token)).status_code == 200
        yield client


@dataclass
class Harness(base.Harness):
    """A console and a server that share a database."""

    console: ConsoleContext
    database: Path

    async def request_call(self, name: str = "tester", **arguments: object) -> str:
        """Have an agent request a call. Return the id of the approval request."""
        async with self.connect(name=name) as agent:
            outcome = await agent.call("create_call", **placing(**arguments))
        approval: str = outcome["confirmation"]["approval"]
        return approval

    async def place_call(self, name: str = "tester") -> str:
        """Have an agent place a call and wait until it is answered. Return its SID."""
        async with self.connect(name=name) as agent:
            outcome = await agent.call("create_call", **placing())
        self.clock.advance(20)
        sid: str = outcome["call"]["sid"]
        return sid


@asynccontextmanager
async def open_harness(
    folder: Path, rules: str = 'place = "operator"', **settings: object
) -> AsyncGenerator[Harness]:
    database = folder / "state.db"
    file = policy(folder, f"[confirm]\n{rules}\n[caps]\nsame_number_seconds = 0\n")
    shared = {"calls_mcp_state_url": f"sqlite:///{database}", "calls_mcp_policy": file, **settings}
    async with (
        base.open_harness(sandbox=False, **shared) as server,
        open_console(
            server.runtime.settings,
            Address(port=0),
            server.runtime,
            server.clock,
            poll_interval=0.1,
        ) as console,
    ):
        yield Harness(
            server.server, server.runtime, server.emulator, server.clock, console, database
        )


@asynccontextmanager
async def sign_in_alone(**settings: object) -> AsyncGenerator[WebClient]:
    """A client that is signed in to a console without a server or credentials."""
    async with (
        open_console(load_settings(settings), Address(port=0)) as console,
        sign_in(console) as client,
    ):
        yield client


def text_of(html: str) -> str:
    """The text of a page, without its markup."""
    text = re.sub(r"</?(bdi|span|code|a|time)\b[^>]*>", "", html)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())
