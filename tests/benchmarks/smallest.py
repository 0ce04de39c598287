"""The smallest server that the SDK allows for fetch_call on stdio: a bare httpx GET."""

import os
from functools import cache
from typing import Any

import anyio
import httpx
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

TOOL = types.Tool(name="fetch_call", description="Fetches.", input_schema={"type": "object"})


async def list_tools(_ctx: object, _params: object) -> types.ListToolsResult:
    """Return the one tool."""
    return types.ListToolsResult(tools=[TOOL])


def build_server() -> Server[Any]:
    """Build a server that answers fetch_call with what the API answers.

    Its HTTP client is made at the first call, as those of most servers are.
    """
    account = os.environ["TWILIO_ACCOUNT_SID"]
    base = f"{os.environ['CALLS_MCP_API_BASE_URL']}/2010-04-01/Accounts/{account}"

    @cache
    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=base, auth=(account, os.environ["TWILIO_AUTH_TOKEN"]))

    async def call_tool(_ctx: object, params: types.CallToolRequestParams) -> types.CallToolResult:
        answer = await client().get(f"/Calls/{(params.arguments or {})['sid']}.json")
        found: dict[str, Any] = answer.json()
        text = types.TextContent(text=answer.text)
        return types.CallToolResult(content=[text], structured_content=found)

    return Server("smallest", on_list_tools=list_tools, on_call_tool=call_tool)


async def main() -> None:
    """Serve on stdio."""
    server = build_server()
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(main)
