"""What a page of the console's own sends."""

import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request

from calls_mcp.console.browser_sessions import session_of

_LARGEST = 16_384  # bytes
_MOST_FIELDS = 20
_PATIENCE = 10  # seconds


async def fields(request: Request) -> Mapping[str, str]:
    """The fields of a form, whoever sent it."""
    body = bytearray()
    try:
        with anyio.fail_after(_PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _LARGEST:
                    raise HTTPException(413, "That is more than a form of this console has.")
    except TimeoutError:
        raise HTTPException(408, "The form took too long to come.") from None
    try:
        text = body.decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise HTTPException(400, "That is no form of this console.") from None


async def own_fields(request: Request) -> Mapping[str, str]:
    """The fields of a form that this very session was shown."""
    sent = await fields(request)
    if not secrets.compare_digest(sent.get("csrf", "").encode(), session_of(request).csrf.encode()):
        raise HTTPException(403, "The form is not from this session: load the page again.")
    return sent
