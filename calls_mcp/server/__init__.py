"""The MCP server: handlers of requests, and the stdio transport."""
