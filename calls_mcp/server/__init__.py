"""The MCP server: request handlers, and the stdio transport."""
