"""An agent of Google's ADK whose model is the test: it says which tool is called next."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from dialogue import answer, plan, request, say, tool
from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner
from google.adk.tools.mcp_tool import McpToolset, StdioConnectionParams
from google.genai import types
from mcp import StdioServerParameters
from mcp.types import ElicitRequestParams, ElicitResult

PLAN = plan()


async def ask(_context: object, params: ElicitRequestParams) -> ElicitResult:
    content = PLAN.content(params.message)
    return ElicitResult(action="decline" if content is None else "accept", content=content)


def show(tools: list[types.Tool]) -> None:
    shown: dict[str, Any] = {}
    for declaration in (d for t in tools for d in t.function_declarations or []):
        schema = declaration.parameters_json_schema or declaration.parameters
        if isinstance(schema, types.Schema):
            schema = schema.model_dump(mode="json", exclude_none=True, by_alias=True)
        shown[declaration.name or ""] = tool(declaration.description, schema)
    say(tools=shown)


class Model(BaseLlm):
    async def generate_content_async(
        self,
        llm_request: LlmRequest,
        stream: bool = False,  # noqa: FBT001, FBT002  # as the base class has it
    ) -> AsyncGenerator[LlmResponse]:
        del stream
        part = llm_request.contents[-1].parts[-1]
        if part.function_response is None:
            show(llm_request.config.tools)
        else:
            given = part.function_response.response
            failed = given.get("isError", False)
            content = given.get("structuredContent")
            seen = answer(json.dumps(given, ensure_ascii=False), failed=failed, structured=content)
            say(**seen, asked=PLAN.asked)
        PLAN.asked.clear()
        asked = await request()
        reply = types.Part.from_text(text="Done.")
        if asked:
            reply = types.Part.from_function_call(name=asked[0], args=asked[1])
        yield LlmResponse(content=types.Content(role="model", parts=[reply]))


async def main() -> None:
    server = StdioServerParameters(command=PLAN.command[0], args=PLAN.command[1:])
    toolset = McpToolset(
        connection_params=StdioConnectionParams(server_params=server, timeout=60),
        elicitation_callback=ask if PLAN.user else None,
    )
    agent = LlmAgent(name="caller", model=Model(model="test"), tools=[toolset])
    runner = InMemoryRunner(agent)
    await runner.run_debug("Go on.", quiet=True)
    await toolset.close()


asyncio.run(main())
