"""The smallest server that the SDK allows: one tool, which does nothing."""

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

TOOL = types.Tool(name="nothing", description="Does nothing.", input_schema={"type": "object"})


async def list_tools(_ctx: object, _params: object) -> types.ListToolsResult:
    """The one tool."""
    return types.ListToolsResult(tools=[TOOL])


async def call_tool(_ctx: object, _params: object) -> types.CallToolResult:
    """Nothing."""
    return types.CallToolResult(content=[], structured_content={})


async def main() -> None:
    """Serve on stdio."""
    server = Server("smallest", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(main)
