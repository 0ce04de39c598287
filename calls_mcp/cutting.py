"""HTTP requests that can be broken off, and end in order even then."""

import anyio
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def is_stream(scope: Scope) -> bool:
    """Whether a request only listens, for as long as it may, by what its head says.

    The SDK holds the body to that.
    """
    if scope["method"] == "GET":
        return True
    headers = Headers(scope=scope)
    is_modern = headers.get("mcp-protocol-version") in MODERN_PROTOCOL_VERSIONS
    return is_modern and headers.get("mcp-method") == "subscriptions/listen"


async def run(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    cut: anyio.CancelScope,
    otherwise: ASGIApp,
) -> None:
    """Serve a request by `app` until `cut` is cancelled.

    An answer that has begun then ends as if that were all; where none has, `otherwise` gives it.
    """
    has_begun = is_whole = False

    async def noticing(message: Message) -> None:
        nonlocal has_begun, is_whole
        await send(message)
        has_begun = True
        is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)

    with cut:
        await app(scope, receive, noticing)
    if not cut.cancelled_caught or is_whole:
        return
    if has_begun:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    else:
        await otherwise(scope, receive, send)
