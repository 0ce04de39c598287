"""A complete server with an emulator, its clients and their users."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.session import ElicitationFnT
from mcp.server.lowlevel import Server
from mcp_types import (
    CallToolResult,
    ElicitRequestFormParams,
    ElicitRequestParams,
    ElicitResult,
    Implementation,
    TextContent,
)

from calls_mcp.emulator import DEFAULT_ACCOUNT, OWN_NUMBERS, Emulator, LoggedRequest, ManualClock
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Access, load_settings

ACCOUNT = DEFAULT_ACCOUNT.sid
CALLER = OWN_NUMBERS[0]
TALKS_FOR_AN_HOUR = "+15005550205"
PERMISSIVE = Path(__file__).parent / "permissive.toml"
Era = Literal["auto", "legacy"]
ERAS: tuple[Era, ...] = ("auto", "legacy")
TWIML = '<Response><Say>Hello</Say><Pause length="3599"/></Response>'

NEVER = 1e6  # seconds
Reply = Callable[[str], ElicitResult]


def approve(_message: str) -> ElicitResult:
    return ElicitResult(action="accept", content={"approve": True})


def decline(_message: str) -> ElicitResult:
    return ElicitResult(action="decline")


def dismiss(_message: str) -> ElicitResult:
    return ElicitResult(action="cancel")


@dataclass
class User:
    """A user whom a client can ask; remembers the questions."""

    reply: Reply = approve
    asked: list[str] = field(default_factory=list[str])

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        del context
        assert isinstance(params, ElicitRequestFormParams)
        self.asked.append(params.message)
        return self.reply(params.message)


@dataclass
class Agent:
    """A connected client."""

    client: Client

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool; the structured content of the result."""
        return structured(await self.client.call_tool(tool, arguments))

    async def read(self, tool: str, **arguments: object) -> str:
        """Call a tool; the text of the result."""
        return text_of(await self.client.call_tool(tool, arguments))

    async def confirm(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool, then call it again with the confirmation token."""
        asked = await self.call(tool, **arguments)
        token = asked["confirmation"]["token"]
        return await self.call(tool, **arguments, confirmation_token=token)

    async def place(self, **arguments: object) -> str:
        """Place and confirm a call to the callee who talks for an hour; its SID."""
        outcome = await self.confirm("create_call", **(placing() | arguments))
        return cast("str", outcome["call"]["sid"])


def placing(**arguments: object) -> dict[str, object]:
    """Arguments that place a call."""
    return {"to": TALKS_FOR_AN_HOUR, "from": CALLER, "twiml": TWIML} | arguments


def structured(result: CallToolResult) -> dict[str, Any]:
    return cast("dict[str, Any]", result.structured_content)


def text_of(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


@dataclass
class Harness:
    """A server, its emulator, and their common clock (epoch seconds)."""

    server: Server[Any]
    runtime: Runtime
    emulator: Emulator
    clock: ManualClock

    @asynccontextmanager
    async def connect(
        self,
        mode: Literal["auto", "legacy"] = "auto",
        user: ElicitationFnT | None = None,
        name: str = "tester",
    ) -> AsyncGenerator[Agent]:
        """A client in memory; with a `user`, one that can ask somebody."""
        info = Implementation(name=name, version="1")
        async with Client(
            self.server, mode=mode, elicitation_callback=user, client_info=info, cache=None
        ) as client:
            yield Agent(client)

    @property
    def changes(self) -> list[LoggedRequest]:
        """The requests that reached the emulator and were not reads."""
        return [entry for entry in self.emulator.requests if entry.method != "GET"]

    @property
    def reads(self) -> list[LoggedRequest]:
        """The reads that reached the emulator."""
        return [entry for entry in self.emulator.requests if entry.method == "GET"]


@asynccontextmanager
async def open_harness(*, sandbox: bool = False, **settings: object) -> AsyncGenerator[Harness]:
    """A server with `settings` (by field name) on an emulator with a clock that stands still.

    Its policy is permissive; `calls_mcp_policy=None` selects the shipped one. Its state is in
    memory; `calls_mcp_state_url=None` selects the default file. It checks for the operator's
    decisions every `poll` seconds.
    """
    poll = cast("float", settings.pop("poll", NEVER))
    settings = {"calls_mcp_policy": PERMISSIVE, "calls_mcp_state_url": "memory:"} | settings
    clock = ManualClock(1_700_000_000)
    async with Emulator(clock=clock, strict=True) as emulator:
        access = access_to(emulator.base_url)
        async with Runtime(
            load_settings(settings), access, sandbox=sandbox, clock=clock, poll=poll
        ) as runtime:
            yield Harness(build_server(runtime), runtime, emulator, clock)


def access_to(base_url: str, *, timeout: float = 5, deadline: float = 5) -> Access:
    """Return access to a test server with the emulator's credentials; both times are in seconds."""
    return Access(
        base_url=base_url,
        account_sid=ACCOUNT,
        username=ACCOUNT,
        password=DEFAULT_ACCOUNT.auth_token,
        timeout=timeout,
        deadline=deadline,
    )
