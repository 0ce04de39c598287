"""Answers to requests that go no further. Each means that nothing was done for them."""

from math import ceil

from mcp_types import PARSE_ERROR
from starlette.responses import JSONResponse, Response

from calls_mcp.authentication.entrance import error_body


def unreadable(reason: str) -> Response:
    """400, as JSON-RPC words it."""
    return JSONResponse(error_body(f"Parse error: {reason}", PARSE_ERROR), 400)


def stranger(status: int) -> Response:
    """421 or 403: the request names another host, or another origin, than those of this server."""
    reason = "The Host or Origin is not one that CALLS_MCP_ALLOWED_HOSTS names"
    return JSONResponse(error_body(reason), status)


def wrong_type() -> Response:
    """400: what was posted is not JSON by its own account."""
    return JSONResponse(error_body("Content-Type must be application/json"), 400)


def not_allowed(methods: frozenset[str]) -> Response:
    """405: the method is none of these."""
    return JSONResponse(
        error_body("Method not allowed"), 405, {"Allow": ", ".join(sorted(methods))}
    )


def too_slow() -> Response:
    """408: the request did not come in time."""
    return _final(408, "The request took too long to come")


def too_large(most: int) -> Response:
    """413: the body has more bytes than it may have."""
    return JSONResponse(error_body(f"The request's body is larger than {most} bytes"), 413)


def too_many(what: str, wait: float) -> Response:
    """429: come again in `wait` seconds."""
    return _later(429, f"Too many {what}: nothing was done", wait)


def head_too_large() -> Response:
    """431."""
    return _final(431, "The request's head is too large")


def repeated() -> Response:
    """400: a request of this id is under way in the session."""
    return JSONResponse(error_body("A request with the same id is under way: choose another"), 400)


def crowded() -> Response:
    """503: there are too many connections."""
    response = _later(503, "Too many connections: nothing was done", 1)
    response.headers["Connection"] = "close"
    return response


def draining() -> Response:
    """503: this server is about to end, and another may serve it."""
    return _later(503, "This server is ending: nothing was done", 1)


def broken_off() -> Response:
    """504: the server ended before it was done."""
    reason = "It was broken off before it was done: if it is a change, look before you repeat it"
    return JSONResponse(error_body(reason), 504)


def _later(status: int, reason: str, wait: float) -> Response:
    seconds = max(1, ceil(wait))
    told = error_body(f"{reason}; call again in {seconds} s")
    return JSONResponse(told, status, {"Retry-After": str(seconds)})


def _final(status: int, reason: str) -> Response:
    return JSONResponse(error_body(reason), status, {"Connection": "close"})
