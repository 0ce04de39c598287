"""HTTP endpoints: routes, forms and queries, and the responses to errors."""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.emulator.api.parameters import Pairs, Parameter
from calls_mcp.emulator.api_errors import ApiError, invalid, not_found
from calls_mcp.emulator.call_lifecycle import Call
from calls_mcp.emulator.call_store import CallStore
from calls_mcp.emulator.credentials import API_VERSION, Account

FORM = "application/x-www-form-urlencoded"
CHALLENGE = {"WWW-Authenticate": 'Basic realm="Twilio API"'}
NO_PARAMETERS: Mapping[str, Parameter] = {}
METHOD_NOT_ALLOWED = 20004

Endpoint = Callable[[Request], Awaitable[Response]]


def application(routes: Sequence[Route], *, strict: bool) -> Starlette:
    """Return the ASGI application that serves these routes.

    Args:
        routes: The routes.
        strict: Whether unknown parameters are refused. Twilio ignores them.
    """
    handlers = {ApiError: refuse, HTTPException: _refuse_route}
    middleware = [Middleware(RequestIds)]
    app = Starlette(routes=routes, exception_handlers=handlers, middleware=middleware)
    app.router.redirect_slashes = False
    app.state.strict = strict
    return app


class RequestIds:
    """ASGI middleware that adds a request id to each response, for people to quote."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI request."""

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                request_id = f"RQ{secrets.token_hex(16)}"
                MutableHeaders(scope=message)["Twilio-Request-Id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


def route(path: str, endpoints: Mapping[str, Endpoint], check: Callable[[Request], None]) -> Route:
    """Return a route with an endpoint for each method. `check` raises ApiError to refuse."""

    async def checked_endpoint(request: Request) -> Response:
        check(request)
        return await endpoints["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, checked_endpoint, methods=list(endpoints))


def account_route(
    account: Account, path: str, endpoints: Mapping[str, Endpoint], *, is_public: bool = False
) -> Route:
    """Return a route below the account's path. It needs credentials unless it is public."""

    def check(request: Request) -> None:
        if not is_public:
            account.authenticate(request.headers.get("authorization"))
        if request.path_params["account"] != account.sid:
            raise not_found(request.url.path)

    return route(f"/{API_VERSION}/Accounts/{{account}}{path}", endpoints, check)


def call_in_path(request: Request, store: CallStore, parameter: str = "sid") -> Call:
    """Return the call whose SID is in the path, as this parameter of the route.

    Raises:
        ApiError: There is no such call (404).
    """
    call = store.get(cast("str", request.path_params[parameter]))
    if call is None:
        raise not_found(request.url.path)
    return call


def refuse(_: Request, error: Exception) -> Response:
    """Return the response for an ApiError."""
    refusal = cast("ApiError", error)
    unauthorized = refusal.status == HTTPStatus.UNAUTHORIZED
    return JSONResponse(refusal.body(), refusal.status, CHALLENGE if unauthorized else None)


def _refuse_route(request: Request, error: Exception) -> Response:
    failure = cast("HTTPException", error)
    if failure.status_code == HTTPStatus.NOT_FOUND:
        return refuse(request, not_found(request.url.path))
    refusal = ApiError(failure.status_code, METHOD_NOT_ALLOWED, "Method not allowed")
    return JSONResponse(refusal.body(), refusal.status, failure.headers)


async def form_pairs(request: Request, known: Mapping[str, Parameter]) -> Pairs:
    """Return the parameters of the body in order, including empty ones.

    Raises:
        ApiError: The body is not a form in UTF-8, or the body or the query has an unknown parameter
            that is not ignored.
    """
    query_pairs(request)
    body = await request.body()
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and content_type != FORM:
        raise invalid(f"The body must be {FORM}.")
    try:
        return _known(request, pairs(body.decode()), known)
    except UnicodeDecodeError:
        raise invalid("The body must be UTF-8.") from None


def query_pairs(request: Request, known: Mapping[str, Parameter] = NO_PARAMETERS) -> Pairs:
    """Return the parameters of the query in order, as `form_pairs` does."""
    return _known(request, pairs(request.url.query), known)


def _known(request: Request, given: Pairs, known: Mapping[str, Parameter]) -> Pairs:
    unknown = [name for name, _ in given if name not in known]
    if unknown and request.app.state.strict:
        raise invalid(f"Unknown parameter '{unknown[0]}'.")
    return tuple(pair for pair in given if pair[0] in known)


def pairs(text: str) -> Pairs:
    """Return the parameters of a form or query string in order, including empty ones."""
    return tuple(parse_qsl(text, keep_blank_values=True))
