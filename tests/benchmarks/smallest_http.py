"""The smallest server over HTTP that fetches a call: a GET, and what came of it as it is."""

import os
import sys
from typing import Any

import httpx
import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server

TOOL = types.Tool(name="fetch_call", description="Fetches.", input_schema={"type": "object"})


async def list_tools(_ctx: object, _params: object) -> types.ListToolsResult:
    """The one tool."""
    return types.ListToolsResult(tools=[TOOL])


def serve(port: int) -> None:
    """Serve at /mcp on this port."""
    account = os.environ["TWILIO_ACCOUNT_SID"]
    base = f"{os.environ['CALLS_MCP_API_BASE_URL']}/2010-04-01/Accounts/{account}"
    http = httpx.AsyncClient(base_url=base, auth=(account, os.environ["TWILIO_AUTH_TOKEN"]))

    async def call_tool(_ctx: object, params: types.CallToolRequestParams) -> types.CallToolResult:
        answer = await http.get(f"/Calls/{(params.arguments or {})['sid']}.json")
        found: dict[str, Any] = answer.json()
        text = types.TextContent(text=answer.text)
        return types.CallToolResult(content=[text], structured_content=found)

    server = Server("smallest", on_list_tools=list_tools, on_call_tool=call_tool)
    uvicorn.run(server.streamable_http_app(), port=port, log_level="warning")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
