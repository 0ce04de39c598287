"""What a request may be, and how much may be asked for in a minute and at once.

A proxy in front should set such limits, too (`config/deploy/`): these hold without one, and know
who is asking.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.transport_security import (
    TransportSecurityMiddleware,
    TransportSecuritySettings,
)
from mcp_types import PARSE_ERROR, jsonrpc_message_adapter
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.http.refusals import later, refusal
from calls_mcp.observability import telemetry
from calls_mcp.service.grants import principal
from calls_mcp.settings import Settings
from calls_mcp.storage import Limit
from calls_mcp.storage.rate_limiter import RateLimiter
from calls_mcp.tools.catalog import load_operations

MESSAGE = "calls_mcp.message"
"""The key of a scope that has the JSON-RPC message in the request's body, or None."""

_ALL = ""
_DEEPEST = 32
_ERRORS = range(400, 600)
_MINUTE = 60
_SHARE = 4  # one principal gets this part of all sessions and streams
_SOON = 1  # second until it is worth asking again
_WITHOUT_CASE = frozenset({b"host", b"origin", b"content-type"})


class Threshold:
    """Refuses a request for what its head says, before anything is asked or read.

    What is refused here or further in is counted and logged.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        security: TransportSecuritySettings,
        is_crowded: Callable[[], bool],
    ) -> None:
        self._app = app
        self._largest = settings.http.header_bytes
        self._methods = ["POST"] if settings.http.stateless else ["DELETE", "GET", "POST"]
        self._security = TransportSecurityMiddleware(security)
        self._is_crowded = is_crowded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""

        async def noticing(message: Message) -> None:
            if (status := int(message.get("status", 0))) in _ERRORS:
                telemetry.record_http_refusal(status, _name(scope))
            await send(message)

        scope["headers"] = [*_normal(scope["headers"])]
        if self._is_crowded():
            refused = later(503, "Too many connections: nothing was done", _SOON)
        else:
            refused = await self._refusal(Request(scope))
        await (refused or self._app)(scope, receive, noticing)

    async def _refusal(self, request: Request) -> Response | None:
        if stranger := await self._security.validate_request(request):
            return refusal(
                stranger.status_code,
                "The Host or Origin is not one that CALLS_MCP_ALLOWED_HOSTS names",
            )
        if _size_of_head(request.scope) > self._largest:
            return refusal(431, "The request's head is too large", {"Connection": "close"})
        if request.method not in self._methods:
            return refusal(405, "Method not allowed", {"Allow": ", ".join(self._methods)})
        if {"content-length", "transfer-encoding"} <= {*request.headers}:
            return refusal(400, "Parse error: the body has two lengths", code=PARSE_ERROR)
        type_ = request.headers.get("content-type", "")
        if request.method == "POST" and not type_.startswith("application/json"):
            return refusal(400, "Content-Type must be application/json")
        return None


class Reader:
    """Reads each body as a whole before `app` sees the request, with its `MESSAGE` in the scope."""

    def __init__(self, app: ASGIApp, largest: int, patience: float) -> None:
        self._app = app
        self._largest = largest
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        body, app = b"", self._app
        try:
            with anyio.fail_after(self._patience):
                body = await self._read(Request(scope, receive))
            scope[MESSAGE] = _decoded(body) if scope["method"] == "POST" else None
        except TimeoutError:
            app = refusal(408, "The request took too long to come", {"Connection": "close"})
        except _TooLargeError:
            app = refusal(413, f"The request's body is larger than {self._largest} bytes")
        except ValueError as wrong:
            app = refusal(400, f"Parse error: {wrong}", code=PARSE_ERROR)
        except ClientDisconnect:
            return
        await app(scope, _again(body, receive), send)

    async def _read(self, request: Request) -> bytes:
        if int(request.headers.get("content-length", 0)) > self._largest:
            raise _TooLargeError
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._largest:
                raise _TooLargeError
        return bytes(body)


class _TooLargeError(Exception):
    """The body of a request is larger than it may be."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much one caller may have, and all of them together."""

    each: int
    in_all: int


class Admission:
    """Passes on messages that are within the quotas.

    Requests of different kinds are counted apart: changes that wait for an answer of the user's
    keep out neither that answer, nor reads.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, rates: RateLimiter, is_ending: Callable[[], bool]
    ) -> None:
        self._app = app
        self._at_once = _at_once(settings)
        self._a_minute = Quota(settings.http.rate, settings.http.rate_in_all)
        self._rates = rates
        self._is_ending = is_ending
        self._present: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, by ASGI."""
        kind, caller = _kind(scope), caller_of(scope)
        refused = self._late(scope[MESSAGE]) or self._crowded(kind, caller)
        if refused is not None:
            await refused(scope, receive, send)
            return
        places = ((kind, caller), (kind, _ALL))
        self._present.update(places)  # before anything is waited for
        try:
            app = await self._hurried(kind, caller) or _malformed(scope) or self._app
            await app(scope, receive, send)
        finally:
            self._present -= Counter(places)

    def _late(self, message: object) -> Response | None:
        """Refuse what would begin during shutdown."""
        match message:
            case {"method": "initialize" | "tools/call" | "subscriptions/listen"} if (
                self._is_ending()
            ):
                return later(503, "This server is ending: nothing was done", _SOON)
            case _:
                return None

    def _crowded(self, kind: str, caller: str) -> Response | None:
        """Refuse what is too much at once."""
        quota = self._at_once[kind]
        is_full = self._present[kind, caller] >= quota.each
        if is_full or self._present[kind, _ALL] >= quota.in_all:
            return too_many(f"{kind} at once", _SOON)
        return None

    async def _hurried(self, kind: str, caller: str) -> Response | None:
        """Refuse what comes too soon after what came before."""
        limits = [
            Limit(kind, self._a_minute.each, _MINUTE, caller),
            Limit(f"{kind} in all", self._a_minute.in_all, _MINUTE, _ALL),
        ]
        exhausted = await self._rates.hit(limits)
        return exhausted and too_many(exhausted.name, exhausted.retry_after)


def caller_of(scope: Scope) -> str:
    """Whom a request counts against: its token's principal; where there are none, its address."""
    client = cast("tuple[str, int] | None", scope.get("client"))
    return principal() or f"address {client[0] if client else ''}"


def share_of(sessions: int) -> int:
    """How many of all sessions one caller may have."""
    return sessions // _SHARE


def too_many(what: str, wait: float) -> Response:
    """429: call again in `wait` seconds."""
    return later(429, f"Too many {what}: nothing was done", wait)


def _malformed(scope: Scope) -> Response | None:
    """Refuse what is JSON and no JSON-RPC; the SDK would answer with pydantic's report of it."""
    if scope["method"] != "POST":
        return None
    try:
        jsonrpc_message_adapter.validate_python(scope[MESSAGE], by_name=False)
    except ValidationError:
        return refusal(400, "The body is not a JSON-RPC 2.0 message")
    return None


def _at_once(settings: Settings) -> Mapping[str, Quota]:
    """How many requests of each kind may be under way."""
    sessions = settings.http.sessions
    each, in_all = settings.http.concurrency, settings.http.concurrency_in_all
    return {
        "requests": Quota(each, in_all),
        "answers": Quota(each, in_all),
        "changes": Quota(each, max(sessions, in_all)),  # most of them wait for somebody's answer
        "streams": Quota(share_of(sessions), sessions),
    }


def _kind(scope: Scope) -> str:
    """What a request is counted as."""
    match scope[MESSAGE]:
        case _ if scope["method"] == "GET":
            return "streams"
        case {"method": "subscriptions/listen"}:
            return "streams"
        case {"method": "tools/call", "params": {"name": str(name)}}:
            operation = load_operations().get(name)
            return "changes" if operation and not operation.read_only else "requests"
        case {"method": str(called)} if not called.startswith("notifications/"):
            return "requests"
        case _:  # what goes on with a request, or ends a session
            return "answers"


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that tells the body, and then what comes later."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _name(scope: Scope) -> str:
    """Whom a request is from, as far as that was found out."""
    user = cast("object", scope.get("user"))
    return user.display_name if isinstance(user, AuthenticatedUser) else ""


def _normal(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The headers as the SDK compares them; without the one that asks for what nobody keeps."""
    for name, value in headers:
        if name != b"last-event-id":
            yield name, value.lower() if name in _WITHOUT_CASE else value


def _size_of_head(scope: Scope) -> int:
    headers = cast("list[tuple[bytes, bytes]]", scope["headers"])
    line = len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in headers)


def _decoded(body: bytes) -> object:
    """Decode the JSON in a body.

    Raises:
        ValueError: It is none, or nested too deeply.
    """
    try:
        message: object = json.loads(body.decode())
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except ValueError:
        raise ValueError("the body is not JSON") from None
    if _is_deeper(message, _DEEPEST):
        raise ValueError("the JSON is nested too deeply")
    return message


def _is_deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = [*cast("dict[str, object]", value).values()]
    if not isinstance(value, list):
        return levels == 0
    children = cast("list[object]", value)
    return levels == 0 or any(_is_deeper(child, levels - 1) for child in children)
