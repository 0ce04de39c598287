"""The operator's pages: what waits for a decision, the record, the rules, the calls.

Every page is made by the server and works without JavaScript; nothing is loaded from elsewhere.
"""

from calls_mcp.console.address import Address
from calls_mcp.console.lifecycle import Console, open_console

__all__ = ["Address", "Console", "open_console"]
