"""The five endpoints on Starlette."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from calls_mcp.emulator.account import Account
from calls_mcp.emulator.call import Call
from calls_mcp.emulator.changing import change
from calls_mcp.emulator.errors import METHOD_NOT_ALLOWED, ApiError, invalid, not_found
from calls_mcp.emulator.lifecycle import require_over
from calls_mcp.emulator.listing import page, parsed
from calls_mcp.emulator.placing import Placer
from calls_mcp.emulator.resource import VERSION, resource
from calls_mcp.emulator.rules import NOTHING, Pairs, checked
from calls_mcp.emulator.store import CallStore

COLLECTION = f"/{VERSION}/Accounts/{{account}}/Calls.json"
ITEM = f"/{VERSION}/Accounts/{{account}}/Calls/{{sid}}.json"
FORM = "application/x-www-form-urlencoded"
CHALLENGE = {"WWW-Authenticate": 'Basic realm="Twilio API"'}


@dataclass(frozen=True)
class Incoming:
    """A request whose sender is known: its path, the SID in it, and its parameters."""

    path: str
    sid: str
    query: Pairs
    form: Pairs


Endpoint = Callable[[Incoming], Response]


@dataclass(frozen=True)
class CallsApi:
    """The Calls API of one account.

    Attributes:
        account: Whose calls these are.
        store: The calls.
        placer: Turns forms into calls.
        interval: Seconds between one call that is dialled and the next.
    """

    account: Account
    store: CallStore
    placer: Placer
    interval: float

    def create(self, incoming: Incoming) -> Response:
        """Place a call."""
        checked(incoming.query, NOTHING)
        calls = self.store.place(partial(self.placer.placed, incoming.form), self.interval)
        return self._answer(calls[0], status=201)

    def list(self, incoming: Incoming) -> Response:
        """A page of the calls, newest first."""
        query = parsed(incoming.query)
        stretch = self.store.stretch(query.criteria, query.size, query.anchor)
        return JSONResponse(page(query, stretch, self.account.sid))

    def fetch(self, incoming: Incoming) -> Response:
        """One call."""
        checked(incoming.query, NOTHING)
        return self._answer(_found(self.store.get(incoming.sid), incoming))

    def update(self, incoming: Incoming) -> Response:
        """Redirect, limit or end a live call."""
        checked(incoming.query, NOTHING)
        call = self.store.amend(incoming.sid, change(incoming.form))
        return self._answer(_found(call, incoming))

    def delete(self, incoming: Incoming) -> Response:
        """Remove the record of a call that is over."""
        checked(incoming.query, NOTHING)
        if not self.store.delete(incoming.sid, require_over):
            raise not_found(incoming.path)
        return Response(status_code=204)

    def _answer(self, call: Call, status: int = 200) -> Response:
        return JSONResponse(resource(call, self.account.sid), status)


def application(api: CallsApi) -> Starlette:
    """The ASGI application that serves these calls."""
    routes = [
        _route(COLLECTION, api.account, {"GET": api.list, "POST": api.create}),
        _route(ITEM, api.account, {"GET": api.fetch, "POST": api.update, "DELETE": api.delete}),
    ]
    app = Starlette(
        routes=routes, exception_handlers={ApiError: _refuse, HTTPException: _refuse_route}
    )
    app.router.redirect_slashes = False
    return app


def _route(path: str, account: Account, endpoints: Mapping[str, Endpoint]) -> Route:
    async def guarded(request: Request) -> Response:
        account.authenticate(request.headers.get("authorization"))
        if request.path_params["account"] != account.sid:
            raise not_found(request.url.path)
        endpoint = endpoints["GET" if request.method == "HEAD" else request.method]
        return endpoint(await _incoming(request))

    return Route(path, guarded, methods=list(endpoints))


async def _incoming(request: Request) -> Incoming:
    return Incoming(
        path=request.url.path,
        sid=cast("str", request.path_params.get("sid", "")),
        query=pairs(request.url.query),
        form=pairs(await _form(request)),
    )


async def _form(request: Request) -> str:
    body = await request.body()
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and content_type != FORM:
        raise invalid(f"The body must be {FORM}.")
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise invalid("The body must be UTF-8.") from None


def pairs(text: str) -> Pairs:
    """The parameters of a form or a query string, in order, empty ones too."""
    return tuple(parse_qsl(text, keep_blank_values=True))


def _found(call: Call | None, incoming: Incoming) -> Call:
    if call is None:
        raise not_found(incoming.path)
    return call


def _refuse(_: Request, error: Exception) -> Response:
    refusal = cast("ApiError", error)
    unauthorized = refusal.status == HTTPStatus.UNAUTHORIZED
    return JSONResponse(refusal.body(), refusal.status, CHALLENGE if unauthorized else None)


def _refuse_route(request: Request, error: Exception) -> Response:
    failure = cast("HTTPException", error)
    if failure.status_code == HTTPStatus.NOT_FOUND:
        return _refuse(request, not_found(request.url.path))
    refusal = ApiError(failure.status_code, METHOD_NOT_ALLOWED, "Method not allowed")
    return JSONResponse(refusal.body(), refusal.status, failure.headers)
