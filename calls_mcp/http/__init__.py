"""The MCP server over HTTP. A stdio server loads none of this.

`asgi.McpEndpoint` checks each request in this order: headers (`request_checks`), token
(`authentication`), body (`request_checks`), limits (`request_limits`) and scopes
(`authentication`). Then it passes the request to the SDK's app.
"""
