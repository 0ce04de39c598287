"""Answers to requests that go no further. Each means that nothing was done, except 504."""

from collections.abc import Mapping
from math import ceil

from mcp_types import INVALID_REQUEST
from starlette.responses import JSONResponse, Response


def refusal(
    status: int,
    reason: str,
    headers: Mapping[str, str] | None = None,
    *,
    code: int = INVALID_REQUEST,
) -> Response:
    """Answer with a JSON-RPC error, whose message is all that MCP clients show."""
    error = {"code": code, "message": reason}
    body = {"jsonrpc": "2.0", "id": None, "error": error}
    return JSONResponse(body, status, headers and {**headers})


def later(status: int, reason: str, wait: float) -> Response:
    """Answer that the client may try again in `wait` seconds."""
    seconds = max(1, ceil(wait))
    return refusal(status, f"{reason}; call again in {seconds} s", {"Retry-After": str(seconds)})
