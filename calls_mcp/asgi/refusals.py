"""Answers to requests that go no further. Each means that nothing was done for them."""

from math import ceil

from mcp_types import INVALID_REQUEST, PARSE_ERROR
from starlette.responses import JSONResponse, PlainTextResponse, Response


def unreadable(reason: str) -> Response:
    """400, as JSON-RPC words it."""
    error = {"code": PARSE_ERROR, "message": f"Parse error: {reason}"}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 400)


def not_allowed(methods: frozenset[str]) -> Response:
    """405: the method is none of these."""
    return PlainTextResponse("Method not allowed", 405, {"Allow": ", ".join(sorted(methods))})


def too_slow() -> Response:
    """408: the request did not come in time."""
    return PlainTextResponse("The request took too long to come", 408, {"Connection": "close"})


def too_many(what: str, wait: float) -> Response:
    """429: come again in `wait` seconds."""
    return _later(429, f"Too many {what}", wait)


def head_too_large() -> Response:
    """431."""
    return PlainTextResponse("Request head too large", 431, {"Connection": "close"})


def crowded() -> Response:
    """503: there are too many connections."""
    response = _later(503, "Too many connections; nothing was done", 1)
    response.headers["Connection"] = "close"
    return response


def draining() -> Response:
    """503: this server is about to end, and another may serve it."""
    return _later(503, "This server is ending; nothing was done", 1)


def broken_off() -> Response:
    """504: the server ended before it was done."""
    reason = "This server ended before it was done: look before you repeat it"
    return JSONResponse(_error(reason), 504)


def _later(status: int, reason: str, wait: float) -> Response:
    return JSONResponse(_error(reason), status, {"Retry-After": str(max(1, ceil(wait)))})


def _error(reason: str) -> dict[str, object]:
    error = {"code": INVALID_REQUEST, "message": reason}
    return {"jsonrpc": "2.0", "id": None, "error": error}
