"""Serving any number of MCP clients over HTTP. Nothing of it is loaded on stdio.

A request passes, in this order: what its head says (`intake`), who it is from
(`calls_mcp.authentication`), what its body says (`intake`), whether anything is still begun
(`drain`), how much may be asked for (`admission`), whether its token is enough for it, how many
sessions there may be (`sessions`), and then the SDK's app.
"""

from calls_mcp.asgi.hosts import Endpoint
from calls_mcp.asgi.serving import Site, listening, serve_http

__all__ = ["Endpoint", "Site", "listening", "serve_http"]
