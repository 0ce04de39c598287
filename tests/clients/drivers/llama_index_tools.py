"""LlamaIndex, with its MCP client and tools."""

import asyncio
from typing import Any

from dialogue import Answer, answer, converse, plan, tool
from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

PLAN = plan()


async def main() -> None:
    command, *arguments = PLAN.command or [PLAN.url]
    client = BasicMCPClient(command, args=arguments, timeout=60)
    tools = {t.metadata.name: t for t in await McpToolSpec(client).to_tool_list_async()}

    async def invoke(name: str, arguments: dict[str, Any]) -> Answer:
        output = await tools[name].acall(**arguments)
        raw = output.raw_output
        structured = getattr(raw, "structured_content", None)
        failed = output.is_error or getattr(raw, "is_error", False)
        return answer(output.content, failed=failed, structured=structured)

    shown = {n: t.metadata.to_openai_tool()["function"] for n, t in tools.items()}
    about = {n: tool(f["description"], f["parameters"]) for n, f in shown.items()}
    await converse(PLAN, about, invoke)


asyncio.run(main())
