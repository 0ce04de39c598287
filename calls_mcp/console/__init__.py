"""The operator's web pages: approvals, calls, the audit log, statistics, and the policy.

Every page is rendered by the server and works without JavaScript; nothing is loaded from elsewhere.
"""

from calls_mcp.console.address import Address
from calls_mcp.console.app import open_console
from calls_mcp.console.state import Console

__all__ = ["Address", "Console", "open_console"]
