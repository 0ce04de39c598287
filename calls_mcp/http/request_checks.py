"""Check a request's headers, its body, and the JSON-RPC message in the body."""

import json
from collections.abc import Iterable, Iterator, Mapping
from math import ceil
from typing import cast

import anyio
from mcp.server.streamable_http import check_accept_headers
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    InitializeRequest,
    JSONRPCNotification,
    jsonrpc_message_adapter,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope

from calls_mcp.server.unreadable_messages import INVALID_ID
from calls_mcp.settings import HttpSettings

MESSAGE = "calls_mcp.message"
"""The key in the ASGI scope for the JSON-RPC message in the body; None if there is no body."""

_MAX_DEPTH = 32
_CASE_INSENSITIVE = frozenset({b"host", b"origin", b"content-type"})


class RequestRejected(Exception):
    """A rejected request and its `response`. Nothing was done, except perhaps with a 504."""

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Mapping[str, str] | None = None,
        *,
        code: int = INVALID_REQUEST,
    ) -> None:
        """Make the response: a JSON-RPC error, because MCP clients show only its message."""
        super().__init__(reason)
        body = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": reason}}
        self.response = JSONResponse(body, status, headers and {**headers})


def retry_later(status: int, reason: str, wait: float) -> RequestRejected:
    """Return a rejection that asks the client to retry in `wait` seconds."""
    seconds = max(1, ceil(wait))
    headers = {"Retry-After": str(seconds)}
    return RequestRejected(status, f"{reason}. Retry in {seconds} s", headers)


class HeadCheck:
    """Checks the request line and headers, before the token is verified or the body is read."""

    def __init__(self, settings: HttpSettings, security: TransportSecuritySettings) -> None:
        self._max_bytes = settings.header_bytes
        self._methods = ["POST"] if settings.stateless else ["DELETE", "GET", "POST"]
        self._security = TransportSecurityMiddleware(security)

    async def __call__(self, scope: Scope) -> None:
        """Check the head, and normalize its headers for the SDK's comparisons.

        Raises:
            RequestRejected: The head has a fault.
        """
        scope["headers"] = [*_normalized(scope["headers"])]
        request = Request(scope)
        if failed := await self._security.validate_request(request):
            reason = (
                "The Host or Origin header is not allowed. The operator can add the host to "
                "CALLS_MCP_ALLOWED_HOSTS, or a browser client's origin to "
                "CALLS_MCP_BROWSER_ORIGINS"
            )
            raise RequestRejected(failed.status_code, reason)
        if _head_bytes(scope) > self._max_bytes:
            reason = f"The request headers are larger than {self._max_bytes} bytes"
            raise RequestRejected(431, reason, {"Connection": "close"})
        if request.method not in self._methods:
            methods = ", ".join(self._methods)
            raise RequestRejected(405, f"Method not allowed. Use {methods}", {"Allow": methods})
        headers = request.headers
        if "transfer-encoding" in headers and "content-length" in headers:
            reason = "Parse error: send either Content-Length or Transfer-Encoding, not both"
            raise RequestRejected(400, reason, code=PARSE_ERROR)
        media_type = headers.get("content-type", "").partition(";")[0].strip()
        if request.method == "POST" and media_type != "application/json":
            raise RequestRejected(400, "Content-Type must be application/json")
        if request.method == "POST" and not all(check_accept_headers(request)):
            raise RequestRejected(406, "Accept must list application/json and text/event-stream")


def method_of(scope: Scope) -> str:
    """Return the method of the JSON-RPC message in a request; empty if there is none."""
    match scope[MESSAGE]:
        case {"method": str(method)}:
            return method
        case _:
            return ""


def is_stream(scope: Scope) -> bool:
    """Return whether a request opens a stream, by its head. The SDK checks the body."""
    if scope["method"] == "GET":
        return True
    headers = Headers(scope=scope)
    is_modern = headers.get("mcp-protocol-version") in MODERN_PROTOCOL_VERSIONS
    return is_modern and headers.get("mcp-method") == "subscriptions/listen"


async def read_body(scope: Scope, receive: Receive, settings: HttpSettings) -> Receive:
    """Read the body, put its `MESSAGE` into the scope, and return a `receive` that replays it.

    Raises:
        RequestRejected: The body is too large, arrives too slowly, or is not JSON.
        ClientDisconnect: The client has disconnected.
    """
    if int(Headers(scope=scope).get("content-length", 0)) > settings.body_bytes:
        raise _too_large(settings)
    try:
        with anyio.fail_after(settings.patience):
            body = await _whole(receive, settings)
    except TimeoutError:
        reason = f"The request body did not arrive within {settings.patience:g} s"
        raise RequestRejected(408, reason, {"Connection": "close"}) from None
    scope[MESSAGE] = _decoded(body) if scope["method"] == "POST" else None
    return _replay(body, receive)


def check_json_rpc(scope: Scope) -> None:
    """Check that the body is a JSON-RPC message, because the SDK would send pydantic's report.

    Raises:
        RequestRejected: The body is something else.
    """
    if scope["method"] != "POST":
        return
    try:
        message = jsonrpc_message_adapter.validate_python(scope[MESSAGE], by_name=False)
    except ValidationError:
        raise RequestRejected(400, "The body is not a JSON-RPC 2.0 message") from None
    # A request whose id is invalid is read as a notification, which nobody answers.
    if isinstance(message, JSONRPCNotification) and "id" in scope[MESSAGE]:
        raise RequestRejected(400, f"Invalid Request: {INVALID_ID}")
    if method_of(scope) == "initialize":
        _check_initialize(scope[MESSAGE])


def _check_initialize(message: object) -> None:
    """Check a request to open a session, because the SDK opens one even if it is invalid."""
    try:
        InitializeRequest.model_validate(message, by_name=False)
    except ValidationError:
        reason = "initialize needs params with protocolVersion, capabilities and clientInfo"
        raise RequestRejected(400, reason, code=INVALID_PARAMS) from None


def _normalized(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers, without `Last-Event-ID`, because events are not stored for resumption."""
    for name, value in headers:
        if name != b"last-event-id":
            yield name, value.lower() if name in _CASE_INSENSITIVE else value


def _head_bytes(scope: Scope) -> int:
    headers = cast("list[tuple[bytes, bytes]]", scope["headers"])
    line = len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in headers)


async def _whole(receive: Receive, settings: HttpSettings) -> bytes:
    body, has_more = bytearray(), True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > settings.body_bytes:
            raise _too_large(settings)
        has_more = message.get("more_body", False)
    return bytes(body)


def _too_large(settings: HttpSettings) -> RequestRejected:
    return RequestRejected(413, f"The request body is larger than {settings.body_bytes} bytes")


def _decoded(body: bytes) -> object:
    try:
        message: object = json.loads(body.decode())
    except RecursionError:
        raise _parse_error("the JSON is nested too deeply") from None
    except ValueError:
        raise _parse_error("the body is not JSON") from None
    # Counting brackets saves the recursive check for most messages.
    if body.count(b"{") + body.count(b"[") >= _MAX_DEPTH and _is_deeper(message, _MAX_DEPTH):
        raise _parse_error("the JSON is nested too deeply")
    return message


def _parse_error(reason: str) -> RequestRejected:
    return RequestRejected(400, f"Parse error: {reason}", code=PARSE_ERROR)


def _is_deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = [*cast("dict[str, object]", value).values()]
    if not isinstance(value, list):
        return levels == 0
    children = cast("list[object]", value)
    return levels == 0 or any(_is_deeper(child, levels - 1) for child in children)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body first, and then the messages of `receive`."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
