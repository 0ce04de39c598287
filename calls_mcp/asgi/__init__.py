"""Serving any number of MCP clients over HTTP. Nothing of it is loaded on stdio.

A request passes, in this order: the host and the limits of what it may be (`intake`), whether
anything is still begun (`drain`), who it is from (`calls_mcp.authentication`), how much they may
ask for (`admission`), and then the SDK's app.
"""

from calls_mcp.asgi.hosts import Endpoint
from calls_mcp.asgi.serving import Site, listening, serve_http

__all__ = ["Endpoint", "Site", "listening", "serve_http"]
