"""An MCP server for Twilio's Calls API."""

__version__ = "0.1.0"
