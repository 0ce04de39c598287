"""The MCP server over HTTP. A stdio server loads none of this.

`mcp_endpoint.McpEndpoint` checks each request in this order: the limit on connections
(`request_limits`), headers (`request_checks`), token (`authentication`), body (`request_checks`),
rate limits (`request_limits`), JSON-RPC (`request_checks`) and scopes (`authentication`). Then it
passes the request to the SDK's app.
"""
