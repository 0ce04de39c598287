"""The OpenAI Agents SDK."""

import asyncio
import json
from typing import Any

from agents import Agent, RunContextWrapper
from agents.mcp import MCPServerStdio, MCPUtil
from agents.tool_context import ToolContext
from dialogue import Answer, answer, converse, plan, tool

PLAN = plan()


async def main() -> None:
    command, *arguments = PLAN.command
    params: Any = {"command": command, "args": arguments}
    async with MCPServerStdio(params, client_session_timeout_seconds=60) as server:
        agent = Agent(name="caller", mcp_servers=[server])
        context = RunContextWrapper(None)
        tools, strict = [
            {t.name: t for t in await MCPUtil.get_function_tools(server, way, context, agent)}
            for way in (False, True)
        ]

        async def invoke(name: str, arguments: dict[str, Any]) -> Answer:
            given = json.dumps(arguments)
            call = ToolContext(None, tool_name=name, tool_call_id="1", tool_arguments=given)
            output = await tools[name].on_invoke_tool(call, given)
            return answer(output if isinstance(output, str) else output["text"])

        shown = {name: tool(t.description, t.params_json_schema) for name, t in tools.items()}
        strictly = {
            name: {"strict": t.strict_json_schema, "parameters": t.params_json_schema}
            for name, t in strict.items()
        }
        await converse(PLAN, shown, invoke, strictly=strictly)


asyncio.run(main())
