"""FastMCP's client."""

import asyncio
from typing import Any

from dialogue import Answer, answer, converse, plan, tool
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StdioTransport
from fastmcp.exceptions import ToolError

PLAN = plan()


async def ask(message: str, *_: object) -> ElicitResult[Any] | dict[str, bool]:
    content = PLAN.content(message)
    return ElicitResult(action="decline") if content is None else content


async def main() -> None:
    transport: Any = PLAN.url or StdioTransport(PLAN.command[0], PLAN.command[1:])
    handler = ask if PLAN.user else None
    async with Client(transport, elicitation_handler=handler, mode=PLAN.era) as client:

        async def invoke(name: str, arguments: dict[str, Any]) -> Answer:
            try:
                result = await client.call_tool(name, arguments)
            except ToolError as error:
                return answer(str(error), failed=True)
            text = "\n".join(block.text for block in result.content)
            return answer(text, structured=result.structured_content)

        tools = await client.list_tools()
        shown = {t.name: tool(t.description, t.input_schema) for t in tools}
        await converse(PLAN, shown, invoke, protocol=client.session.protocol_version)


asyncio.run(main())
