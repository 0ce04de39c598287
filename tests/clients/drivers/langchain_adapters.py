"""LangChain, with its MCP adapters."""

import asyncio
from typing import Any

from dialogue import Answer, answer, converse, plan, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_mcp_adapters.callbacks import Callbacks
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from mcp.types import ElicitRequestParams, ElicitResult

PLAN = plan()


async def ask(_context: object, params: ElicitRequestParams, _about: object) -> ElicitResult:
    content = PLAN.content(params.message)
    return ElicitResult(action="decline" if content is None else "accept", content=content)


async def main() -> None:
    command, *arguments = PLAN.command
    connection: Any = {"transport": "stdio", "command": command, "args": arguments}
    callbacks = Callbacks(on_elicitation=ask) if PLAN.user else Callbacks()
    client = MultiServerMCPClient({"calls": connection}, callbacks=callbacks)
    async with client.session("calls") as session:
        tools = {t.name: t for t in await load_mcp_tools(session)}

        async def invoke(name: str, arguments: dict[str, Any]) -> Answer:
            asked = {"type": "tool_call", "id": "1", "name": name, "args": arguments}
            message = await tools[name].ainvoke(asked)
            text = "\n".join(block["text"] for block in message.content)
            structured = message.artifact and message.artifact["structured_content"]
            return answer(text, failed=message.status == "error", structured=structured)

        shown = {name: convert_to_openai_tool(t)["function"] for name, t in tools.items()}
        about = {name: tool(f["description"], f["parameters"]) for name, f in shown.items()}
        await converse(PLAN, about, invoke)


asyncio.run(main())
