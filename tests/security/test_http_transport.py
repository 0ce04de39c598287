"""Item 28: whoever leaves before saying yes has not said yes."""

from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client
from mcp.client import ClientRequestContext
from mcp_types import ElicitResult

from calls_mcp.emulator import Emulator
from tests.rig import Agent, Rig, User, open_rig, placing
from tests.security.conversation import YES, asked, token_for
from tests.security.process import environment, started

pytestmark = pytest.mark.anyio

FORMS: dict[str, Any] = {"elicitation": {}}


async def test_item_28_a_call_that_is_cancelled_while_it_is_asked_about_never_runs() -> None:
    async with Emulator() as emulator, started(environment(emulator.base_url)) as server:
        await server.initialize(**FORMS)
        number = await server.request("tools/call", name="create_call", arguments=placing())
        question = await server.read()
        assert question["method"] == "elicitation/create"
        cancelled = {"requestId": number, "reason": "the user left"}
        await server.send(method="notifications/cancelled", params=cancelled)
        accept = {"action": "accept", "content": {"approve": True}}
        await server.send(id=question["id"], result=accept)
        await server.request("ping")
        while "result" not in await server.read():
            pass
        assert await server.end() == 0
        assert emulator.requests == ()


async def test_item_28_a_client_that_closes_its_stream_while_it_is_asked_places_no_call() -> None:
    opened = anyio.Event()

    async def hesitate(
        context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> ElicitResult:
        del context, params
        opened.set()
        await anyio.sleep_forever()
        return YES

    async with open_rig() as rig:
        async with anyio.create_task_group() as tasks:

            async def place() -> None:
                async with Client(
                    rig.server, mode="legacy", elicitation_callback=hesitate
                ) as client:
                    await client.call_tool("create_call", placing())

            tasks.start_soon(place)
            await opened.wait()
            tasks.cancel_scope.cancel()
        async with rig.connect() as agent:
            await agent.call("list_calls")
        assert rig.changes == []


async def test_item_28_a_question_that_a_modern_client_drops_is_never_answered(rig: Rig) -> None:
    async with rig.connect(user=User()) as agent:
        await asked(Agent(agent.client), ("create_call", placing()))
    async with rig.connect() as agent:
        await token_for(agent, ("create_call", placing()))
    assert rig.changes == []
