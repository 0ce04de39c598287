"""Serving any number of MCP clients over HTTP. Nothing of it is loaded on stdio.

A request passes, in this order: what its head says (`intake`), what may break it off (`drain`),
who it is from (`calls_mcp.authentication`), what its body says (`intake`), whether that may be
asked for now (`admission`) and with its token, how many sessions there may be (`sessions`), and
then the SDK's app.
"""

from calls_mcp.asgi.hosts import Endpoint
from calls_mcp.asgi.serving import Site, listening, serve_http

__all__ = ["Endpoint", "Site", "listening", "serve_http"]
