"""A confirmation step by step: the question, and an answer by hand."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from mcp import Client
from mcp_types import CallToolResult, ElicitRequest, ElicitResult, InputRequiredResult

from tests.harness import Agent, Harness, User, placing, structured

Era = Literal["auto", "legacy"]
Tool = tuple[str, dict[str, object]]
"""A tool's name and arguments for it."""

YES = ElicitResult(action="accept", content={"approve": True})
NO = ElicitResult(action="decline")

HANGS_UP_AT_ONCE = "+15005550208"


@dataclass
class Asked:
    """A 2026-07-28 client with a question, which it can answer several times."""

    client: Client
    tool: Tool
    state: str
    message: str

    async def answer(self, reply: ElicitResult | None, *, state: str = "") -> dict[str, Any]:
        """Answer with the received state, or another one. Return the structured content."""
        name, arguments = self.tool
        result = await self.client.session.call_tool(
            name,
            arguments,
            input_responses={"confirm": reply} if reply else None,
            request_state=state or self.state,
            allow_input_required=True,
        )
        assert isinstance(result, CallToolResult)
        return structured(result)


async def asked(agent: Agent, tool: Tool) -> Asked:
    """Call a tool with a client that can ask its user. Return the question."""
    result = await agent.client.session.call_tool(*tool, allow_input_required=True)
    assert isinstance(result, InputRequiredResult)
    assert result.request_state
    assert result.input_requests
    request = result.input_requests["confirm"]
    assert isinstance(request, ElicitRequest)
    return Asked(agent.client, tool, result.request_state, request.params.message)


@asynccontextmanager
async def interview(
    harness: Harness, name: str = "tester", **arguments: object
) -> AsyncGenerator[Asked]:
    """Return the question whether to place a call."""
    async with harness.connect(user=User(), name=name) as agent:
        yield await asked(agent, ("create_call", placing(**arguments)))


async def token_for(agent: Agent, tool: Tool) -> str:
    """Return the token that a client gets if it can't ask its user."""
    name, arguments = tool
    token: str = (await agent.call(name, **arguments))["confirmation"]["token"]
    return token


async def changes_of(harness: Harness) -> tuple[Tool, ...]:
    """Return a valid use of each tool that changes something, on a live or an ended call."""
    async with harness.connect() as agent:
        ended = await agent.place(to=HANGS_UP_AT_ONCE)
        harness.clock.advance(60)
        live = await agent.place()
    return (
        ("create_call", placing(to="+15005550206")),
        ("update_call", {"sid": live, "status": "completed"}),
        ("delete_call", {"sid": ended}),
    )
