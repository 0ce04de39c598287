"""What each MCP client must be told to start this server, and where it wants that written."""

from calls_mcp.cli.clients.client import CLIENTS, Client, Entry, absolute
from calls_mcp.cli.clients.config_file import Unchangeable, Written, merged, write
from calls_mcp.cli.clients.launch import Launch, launch

__all__ = [
    "CLIENTS",
    "Client",
    "Entry",
    "Launch",
    "Unchangeable",
    "Written",
    "absolute",
    "launch",
    "merged",
    "write",
]
