"""The MCP App: a page on which a host shows calls to its user.

The tools that return calls refer to it, but only for clients that declare support for such pages.
It is not in the list of resources, because hosts show that list to models.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import mcp_types as types

from calls_mcp.server.permissions import Context
from calls_mcp.tools.catalog import CONFIG

EXTENSION = "io.modelcontextprotocol/ui"
MIME_TYPE = "text/html;profile=mcp-app"
URI = "ui://calls-mcp/calls"

_SHOWN = frozenset({"create_call", "fetch_call", "list_calls", "update_call"})
_OF_A_TOOL = {"ui": {"resourceUri": URI}}
# The page needs no network.
_NOWHERE = ("connectDomains", "resourceDomains", "frameDomains", "baseUriDomains")
_OF_THE_PAGE: dict[str, Any] = {
    "ui": {"csp": {kind: list[str]() for kind in _NOWHERE}, "prefersBorder": True}
}


def is_shown_by(ctx: Context) -> bool:
    """Return whether the client of this request shows such pages."""
    capabilities = ctx.session.client_capabilities
    extensions = capabilities.extensions if capabilities else None
    mime_types = ((extensions or {}).get(EXTENSION) or {}).get("mimeTypes")
    return isinstance(mime_types, list) and MIME_TYPE in mime_types


def with_page(tools: Iterable[types.Tool]) -> list[types.Tool]:
    """Return the tools, with a link to the page in those that return calls."""
    return [
        tool.model_copy(update={"meta": _OF_A_TOOL}) if tool.name in _SHOWN else tool
        for tool in tools
    ]


def contents() -> types.TextResourceContents:
    """Return the page, with a policy that allows no network."""
    return types.TextResourceContents(
        uri=URI, mime_type=MIME_TYPE, text=_html(), _meta=_OF_THE_PAGE
    )


@cache
def _html() -> str:
    return (CONFIG / "app" / "calls.html").read_text("utf-8")
