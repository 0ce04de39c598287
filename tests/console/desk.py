"""A console on a real socket, beside a server on an emulator, and browsers without JavaScript."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import httpx

from calls_mcp.console import Address, Console, open_console
from tests.guard.test_rules import policy
from tests.rig import Rig, open_rig, placing

_CSRF = re.compile(r'name="csrf" value="([^"]+)"')


@dataclass
class Browser:
    """Somebody's browser; it sends what a browser would."""

    http: httpx.AsyncClient
    url: str

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return await self.http.get(self.url + path, headers=headers)

    async def read(self, path: str) -> str:
        """The text of a page."""
        response = await self.get(path)
        assert response.status_code == 200, response.text
        return response.text

    async def post(
        self, path: str, headers: Mapping[str, str] | None = None, **fields: str
    ) -> httpx.Response:
        """Send a form as it is."""
        sent = {"Origin": self.url} | dict(headers or {})
        return await self.http.post(self.url + path, data=fields, headers=sent)

    async def submit(self, page: str, path: str, **fields: str) -> httpx.Response:
        """Send a form that is on `page`, with what is hidden in it."""
        return await self.post(path, None, csrf=await self.csrf(page), **fields)

    async def csrf(self, page: str = "/approvals") -> str:
        found = _CSRF.search(await self.read(page))
        assert found
        return found[1]

    async def show(self, token: str, wanted: str = "/approvals") -> httpx.Response:
        """Come in by a token, on the page that was there instead of the one that was wanted."""
        return await self.post("/sign-in", None, token=token, next=wanted)

    @asynccontextmanager
    async def news(self, room: str) -> AsyncGenerator[AsyncIterator[str]]:
        """What a tab is told of a room; the iterator ends with the stream."""
        async with self.http.stream("GET", f"{self.url}/events?topic={room}") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            yield (line async for line in stream.aiter_lines() if line.startswith("data:"))

    async def enter(self, link: str) -> httpx.Response:
        secret = link.partition("?link=")[2]
        return await self.post("/sign-in", link=secret)


@dataclass
class Desk:
    """A console, the server beside it, and the way in."""

    console: Console
    rig: Rig
    record: Path

    async def ask(self, name: str = "tester", **arguments: object) -> str:
        """Have an agent ask for a call; the approval that it waits for."""
        async with self.rig.connect(name=name) as agent:
            outcome = await agent.call("create_call", **placing(**arguments))
        approval: str = outcome["confirmation"]["approval"]
        return approval

    async def place(self, name: str = "tester") -> str:
        """Have an agent place a call, which is in progress then; its SID."""
        async with self.rig.connect(name=name) as agent:
            outcome = await agent.call("create_call", **placing())
        self.rig.clock.advance(20)
        sid: str = outcome["call"]["sid"]
        return sid

    @asynccontextmanager
    async def stranger(self) -> AsyncGenerator[Browser]:
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
            yield Browser(http, self.console.url)

    @asynccontextmanager
    async def holder(self, token: str) -> AsyncGenerator[Browser]:
        """Somebody who has come in by a token."""
        async with self.stranger() as browser:
            assert (await browser.show(token)).status_code == 303
            yield browser

    @asynccontextmanager
    async def operator(self, name: str = "ann") -> AsyncGenerator[Browser]:
        """Somebody who has come in."""
        async with self.stranger() as browser:
            assert (await browser.enter(self.console.link(name))).status_code == 303
            yield browser


@asynccontextmanager
async def open_desk(
    folder: Path, rules: str = 'place = "operator"', **settings: object
) -> AsyncGenerator[Desk]:
    record = folder / "state.db"
    shared: dict[str, Any] = {
        "calls_mcp_state_url": f"sqlite:///{record}",
        **settings,
    }
    file = policy(folder, f"[confirm]\n{rules}\n[caps]\nsame_number_seconds = 0\n")
    async with (
        open_rig(**shared, calls_mcp_policy=file) as rig,
        open_console(
            rig.runtime.settings,
            Address(port=0),
            rig.runtime,
            rig.clock,
            look_every=0.01,
        ) as console,
    ):
        yield Desk(console, rig, record)


def visible(page: str) -> str:
    """The text of a page, without its markup."""
    text = re.sub(r"</?(bdi|span|code|a)\b[^>]*>", "", page)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())
