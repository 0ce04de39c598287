"""A server with a manual clock and a scripted API."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from mcp import Client

from calls_mcp.emulator import ManualClock
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from tests.harness import PERMISSIVE, Agent, placing
from tests.upstream import SID, Exchange, Step, Tool, Upstream, access, answer, call, error_of, page

FETCH: Tool = ("fetch_call", {"sid": SID})
LIST: Tool = ("list_calls", {"limit": 1})
CREATE: Tool = ("create_call", placing())
UPDATE: Tool = ("update_call", {"sid": SID, "url": "https://example.com/"})
HANG_UP: Tool = ("update_call", {"sid": SID, "status": "completed"})
DELETE: Tool = ("delete_call", {"sid": SID})

FOUND = answer(200, call())
LISTED = answer(200, page(call()))
PLACED = answer(201, call())
GONE = answer(404, {"code": 20404, "message": "not found", "status": 404})


@dataclass
class Service:
    """A server, its only client, and its clock."""

    agent: Agent
    runtime: Runtime
    clock: ManualClock

    async def fail(self, times: int = 5, tool: Tool = FETCH) -> None:
        """Make invocations that must fail, at the same time."""
        async with anyio.create_task_group() as tasks:
            for _ in range(times):
                tasks.start_soon(error_of, self.agent, tool)


@asynccontextmanager
async def serving(
    base_url: str, *, step_timeout: float = 20, deadline: float = 20, **settings: object
) -> AsyncGenerator[Service]:
    settings = {"calls_mcp_confirm": "none", "calls_mcp_policy": PERMISSIVE} | settings
    reached, clock = access(base_url, timeout=step_timeout, deadline=deadline), ManualClock(0)
    async with (
        Runtime(load_settings(settings), reached, clock=clock, monotonic=clock) as runtime,
        Client(build_server(runtime), cache=None) as client,
    ):
        yield Service(Agent(client), runtime, clock)


@asynccontextmanager
async def scripted(
    *steps: Step, step_timeout: float = 20, deadline: float = 20, **settings: object
) -> AsyncGenerator[tuple[Upstream, Service]]:
    async with (
        Upstream(*steps) as upstream,
        serving(
            upstream.base_url, step_timeout=step_timeout, deadline=deadline, **settings
        ) as service,
    ):
        yield upstream, service


@dataclass
class HeldStep:
    """Holds requests until it is released, then plays `step`; notes when `expected` have come."""

    step: Step
    expected: int = 1
    waiting: int = 0
    all_waiting: anyio.Event = field(default_factory=anyio.Event)
    released: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, exchange: Exchange) -> None:
        self.waiting += 1
        if self.waiting >= self.expected:
            self.all_waiting.set()
        await self.released.wait()
        await self.step(exchange)


def by_kind(**steps: Step) -> Step:
    """Play the step for the kind of request: `fetch`, `list`, `POST` or `DELETE`."""

    async def play(exchange: Exchange) -> None:
        request = exchange.request
        kind = request.method
        if kind == "GET":
            kind = "list" if "Calls.json" in request.target else "fetch"
        await steps[kind](exchange)

    return play
