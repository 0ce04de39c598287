"""The operator's web pages: approvals, calls, audit log, overview, policy and operators.

The server renders every page. Pages work without JavaScript and load nothing from other sites.
"""

from calls_mcp.console.app import open_console
from calls_mcp.console.context import ConsoleContext
from calls_mcp.console.listen_address import Address

__all__ = ["Address", "ConsoleContext", "open_console"]
