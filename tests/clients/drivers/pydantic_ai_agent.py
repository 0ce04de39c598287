"""An agent of Pydantic AI whose model is the test: it says which tool is called next."""

import asyncio
from typing import Any

from dialogue import answer, plan, request, say, tool
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import (
    ERROR_OUTCOMES,
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

PLAN = plan()


async def ask(message: str, *_: object) -> ElicitResult[Any] | dict[str, bool]:
    content = PLAN.content(message)
    return ElicitResult(action="decline") if content is None else content


async def think(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    match messages[-1].parts[-1]:
        case ToolReturnPart() as part:
            failed = part.outcome in ERROR_OUTCOMES
            structured = part.content if isinstance(part.content, dict) else None
            told = answer(part.model_response_str(), failed=failed, structured=structured)
            say(**told, asked=PLAN.asked)
        case _:
            tools = info.function_tools
            shown = {t.name: tool(t.description, t.parameters_json_schema) for t in tools}
            say(tools=shown, strict=[t.name for t in tools if t.strict])
    PLAN.asked.clear()
    asked = await request()
    return ModelResponse([ToolCallPart(*asked) if asked else TextPart("Done.")])


async def main() -> None:
    transport = StdioTransport(PLAN.command[0], PLAN.command[1:])
    handler = ask if PLAN.user else None
    toolset = MCPToolset(transport, elicitation_handler=handler, init_timeout=60)
    await Agent(FunctionModel(think), toolsets=[toolset], retries=9).run("Go on.")


asyncio.run(main())
