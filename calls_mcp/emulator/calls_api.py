"""The five endpoints of the Calls API: authentication, forms and responses."""

import base64
import binascii
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, cast
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from calls_mcp.emulator import call_lifecycle, parameters
from calls_mcp.emulator.call_lifecycle import Call
from calls_mcp.emulator.call_resource import resource
from calls_mcp.emulator.call_store import CallStore
from calls_mcp.emulator.list_pages import Listing, ListQuery
from calls_mcp.emulator.parameters import (
    API_VERSION,
    ApiError,
    Pairs,
    Values,
    checked,
    invalid,
    not_found,
)
from calls_mcp.emulator.recordings import RecordingOptions
from calls_mcp.emulator.scenario import INVALID_FROM, VALID_FROM, Scenario, Script
from calls_mcp.emulator.table_pages import Page

FORM = "application/x-www-form-urlencoded"
INSTRUCTIONS = ("Url", "Twiml", "ApplicationSid")
CHALLENGE = {"WWW-Authenticate": 'Basic realm="Twilio API"'}

_LISTING = Listing(
    name="calls",
    prefix="CA",
    parameters=parameters.LIST,
    equal={"To": "to", "From": "from_", "ParentCallSid": "parent_call_sid", "Status": "status"},
    times={"StartTime": "started", "EndTime": "ended"},
)

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Account:
    """The account of an emulator.

    Attributes:
        sid: The account SID: part of every path, and the user name for the auth token.
        auth_token: The password for the account SID.
        api_keys: The secret of each API key, by key SID (`SK…`).
    """

    sid: str
    auth_token: str = field(repr=False)
    api_keys: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    def authenticate(self, authorization: str | None) -> None:
        """Raise ApiError (401) unless this `Authorization` header is valid."""
        username, password = basic_credentials(authorization)
        expected = self.auth_token if username == self.sid else self.api_keys.get(username)
        if expected is None or not hmac.compare_digest(expected.encode(), password.encode()):
            raise ApiError(401, 20003, "Authenticate")

    def route(
        self, path: str, endpoints: Mapping[str, Endpoint], *, is_public: bool = False
    ) -> Route:
        """Return a route below the account's path, with an endpoint for each method."""
        check = self._require_this_account if is_public else self._authorize
        return route(f"/{API_VERSION}/Accounts/{{account}}{path}", endpoints, check)

    def _authorize(self, request: Request) -> None:
        self.authenticate(request.headers.get("authorization"))
        self._require_this_account(request)

    def _require_this_account(self, request: Request) -> None:
        if request.path_params["account"] != self.sid:
            raise not_found(request.url.path)


DEFAULT_ACCOUNT = Account(sid=f"AC{0:032}", auth_token="emulator")  # noqa: S106  # no secret


def basic_credentials(authorization: str | None) -> tuple[str, str]:
    """Return the user name and password of a Basic `Authorization` header, or empty strings."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        username, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return username, password


# Endpoints


@dataclass(frozen=True)
class CallsApi:
    """The Calls API of one account.

    Attributes:
        account: The account.
        store: Its calls.
        own_numbers: Its phone numbers.
        scenario: The behavior of destinations.
        interval: Seconds between dialling two calls.
    """

    account: Account
    store: CallStore
    own_numbers: Collection[str]
    scenario: Scenario
    interval: float

    def routes(self) -> list[Route]:
        """Return the routes of these calls."""
        collection = {"GET": self._list, "POST": self._create}
        item = {"GET": self._fetch, "POST": self._update, "DELETE": self._delete}
        return [
            self.account.route("/Calls.json", collection),
            self.account.route("/Calls/{sid}.json", item),
        ]

    async def _create(self, request: Request) -> Response:
        require_no_query(request)
        values = _create_values(pairs(await form(request)))
        to, from_ = values["To"], values["From"]
        script = self.scenario.script_of(to)
        _check_from(from_, to)
        if parameters.is_phone_number(from_) and from_ not in {VALID_FROM, *self.own_numbers}:
            raise invalid(
                f"The source phone number provided, {from_}, is not yet verified for your account.",
                21210,
            )
        with self.store.transaction() as now:
            ring_at = max(now, self.store.last_ring_at()) + self.interval
            call = _outbound(values, script, now, ring_at)
            self.store.add(*(_both_records(call) if to in self.own_numbers else (call,)))
        return self._response(call, HTTPStatus.CREATED)

    async def _list(self, request: Request) -> Response:
        query = ListQuery.parse(_LISTING, pairs(request.url.query))
        calls, newer, older = self.store.page(query.filters, query.size, query.anchor)
        page = Page(tuple(resource(call, self.account.sid) for call in calls), newer, older)
        return JSONResponse(query.envelope(request.url.path, page))

    async def _fetch(self, request: Request) -> Response:
        require_no_query(request)
        return self._response(self._find(request))

    async def _update(self, request: Request) -> Response:
        require_no_query(request)
        values = _update_values(pairs(await form(request)))
        with self.store.transaction() as now:
            call = _updated(self._find(request), values, now)
            self.store.update(call)
            if call.peer_sid and (peer := self.store.get(call.peer_sid)):
                self.store.update(call_lifecycle.following(peer, call))
            return self._response(self._find(request))

    async def _delete(self, request: Request) -> Response:
        require_no_query(request)
        with self.store.transaction():
            call = self._find(request)
            call_lifecycle.require_over(call)
            self.store.delete(call.sid)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    def _find(self, request: Request) -> Call:
        call = self.store.get(cast("str", request.path_params["sid"]))
        if call is None:
            raise not_found(request.url.path)
        return call

    def _response(self, call: Call, status: HTTPStatus = HTTPStatus.OK) -> Response:
        return JSONResponse(resource(call, self.account.sid), status)


def application(routes: Sequence[Route]) -> Starlette:
    """Return the ASGI application that serves these routes."""
    handlers = {ApiError: refuse, HTTPException: _refuse_route}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


def route(path: str, endpoints: Mapping[str, Endpoint], check: Callable[[Request], None]) -> Route:
    """Return a route with an endpoint for each method. `check` raises ApiError to refuse."""

    async def checked_endpoint(request: Request) -> Response:
        check(request)
        return await endpoints["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, checked_endpoint, methods=list(endpoints))


def refuse(_: Request, error: Exception) -> Response:
    """Return the response for an ApiError."""
    refusal = cast("ApiError", error)
    unauthorized = refusal.status == HTTPStatus.UNAUTHORIZED
    return JSONResponse(refusal.body(), refusal.status, CHALLENGE if unauthorized else None)


def _refuse_route(request: Request, error: Exception) -> Response:
    failure = cast("HTTPException", error)
    if failure.status_code == HTTPStatus.NOT_FOUND:
        return refuse(request, not_found(request.url.path))
    refusal = ApiError(failure.status_code, parameters.METHOD_NOT_ALLOWED, "Method not allowed")
    return JSONResponse(refusal.body(), refusal.status, failure.headers)


async def form(request: Request) -> str:
    """Return the body of a request. Raise ApiError (400) if it is no form in UTF-8."""
    body = await request.body()
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and content_type != FORM:
        raise invalid(f"The body must be {FORM}.")
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise invalid("The body must be UTF-8.") from None


def pairs(text: str) -> Pairs:
    """Return the parameters of a form or query string in order, including empty ones."""
    return tuple(parse_qsl(text, keep_blank_values=True))


def require_no_query(request: Request) -> None:
    """Raise ApiError (400) if a request has a query."""
    checked(pairs(request.url.query), {})


# Creates and updates


def _create_values(form: Pairs) -> Values:
    given = tuple(pair for pair in form if pair[1] or pair[0] not in {"To", "From"})
    values = checked(given, parameters.CREATE)
    if "To" not in values:
        raise invalid("No 'To' number is specified.", 21201)
    if "From" not in values:
        raise invalid("A 'From' phone number is required.", 21213)
    if not any(name in values for name in INSTRUCTIONS):
        raise invalid(f"One of {', '.join(INSTRUCTIONS)} is required.", 21205)
    return values


def _check_from(from_: str, to: str) -> None:
    if from_ == INVALID_FROM:
        raise invalid(f"The 'From' number {from_} is not a valid phone number.", 21212)
    if parameters.is_phone_number(to) and not parameters.is_phone_number(from_):
        raise invalid("To call a phone number, 'From' must be a phone number.", 21212)
    if parameters.is_sip_address(to) and "@" in from_:
        raise invalid("To call a SIP address, 'From' must not contain @.", 21212)


def _outbound(values: Values, script: Script, now: float, ring_at: float) -> Call:
    detection = None if "SendDigits" in values else values.get("MachineDetection")
    result = detection and call_lifecycle.detection_result(detection, script.answered_by)
    is_async = values.get("AsyncAmd") == "true"
    call = Call(
        sid=_new_sid(),
        to=values["To"],
        from_=values["From"],
        direction="outbound-api",
        status="queued",
        created=now,
        updated=now,
        ring_at=ring_at,
        time_limit=int(values.get("TimeLimit", call_lifecycle.DEFAULT_TIME_LIMIT)),
        detects=result,
        detects_after=call_lifecycle.detection_seconds(result) if result and is_async else None,
        url=values.get("Url"),
        twiml=None if "Url" in values else values.get("Twiml"),
        fixed_price=script.price,
        # an application has its own callbacks
        callback_url=None if "ApplicationSid" in values else values.get("StatusCallback"),
        callback_method=values.get("StatusCallbackMethod", "POST"),
        callback_events=values.get("StatusCallbackEvent", "completed"),
        records=json.dumps(RecordingOptions.of(values)) if values.get("Record") == "true" else None,
        amd_callback_url=values.get("AsyncAmdStatusCallback"),
        amd_callback_method=values.get("AsyncAmdStatusCallbackMethod", "POST"),
    )
    timeout = int(values.get("Timeout", call_lifecycle.DEFAULT_TIMEOUT))
    return call_lifecycle.planned(call, script, timeout)


def _both_records(outbound: Call) -> tuple[Call, Call]:
    inbound = outbound._replace(
        sid=_new_sid(),
        direction="inbound",
        detects=None,
        detects_after=None,
        records=None,
        peer_sid=outbound.sid,
        url=None,
        twiml=None,
        fixed_price=None,
        callback_url=None,
    )
    return outbound._replace(peer_sid=inbound.sid), inbound


def _new_sid() -> str:
    return f"CA{secrets.token_hex(16)}"


def _update_values(form: Pairs) -> Values:
    values = checked(form, parameters.UPDATE)
    if not values:
        raise invalid("No parameter to update is specified.")
    if "Url" in values and "Twiml" in values:
        raise invalid("Specify either Url or Twiml, not both.")
    return values


def _updated(call: Call, values: Values, now: float) -> Call:
    """Return the call with the changes of an update."""
    call_lifecycle.require_live(call)
    url, twiml, status = values.get("Url"), values.get("Twiml"), values.get("Status")
    if "StatusCallback" in values or "StatusCallbackMethod" in values:
        call = call._replace(
            callback_url=values.get("StatusCallback", call.callback_url),
            callback_method=values.get("StatusCallbackMethod", call.callback_method),
            updated=now,
        )
    if url or twiml:
        call = call_lifecycle.redirected(call, now, url=url, twiml=twiml)
    if "TimeLimit" in values:
        call = call_lifecycle.limited(call, now, int(values["TimeLimit"]))
    if status:
        call = call_lifecycle.ended(call, now, cast("Literal['canceled', 'completed']", status))
    return call
