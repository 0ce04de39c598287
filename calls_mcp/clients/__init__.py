"""What each MCP client must be told to start this server, and where it wants that written."""

from calls_mcp.clients.client import CLIENTS, Client, Entry, absolute
from calls_mcp.clients.launch import Launch, launch
from calls_mcp.clients.writing import Unchangeable, Written, merged, write

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
