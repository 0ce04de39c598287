"""The five endpoints of the Calls API: who may use them, what a form asks for, what they answer."""

import base64
import binascii
import hmac
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Literal, cast
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from calls_mcp.emulator import lifecycle, parameters
from calls_mcp.emulator.calls import API_VERSION, Call, collection_path, resource
from calls_mcp.emulator.listing import page, parsed
from calls_mcp.emulator.parameters import (
    METHOD_NOT_ALLOWED,
    ApiError,
    Pairs,
    Values,
    checked,
    invalid,
    not_found,
    single,
)
from calls_mcp.emulator.scenario import INVALID_FROM, VALID_FROM, Scenario, Script
from calls_mcp.emulator.storage import CallStore

FORM = "application/x-www-form-urlencoded"
INSTRUCTIONS = ("Url", "Twiml", "ApplicationSid")
CHALLENGE = {"WWW-Authenticate": 'Basic realm="Twilio API"'}


@dataclass(frozen=True)
class Account:
    """The one account an emulator serves.

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


DEFAULT_ACCOUNT = Account(sid=f"AC{0:032}", auth_token="emulator")  # noqa: S106  # no secret


def basic_credentials(authorization: str | None) -> tuple[str, str]:
    """Return the user name and password of a Basic `Authorization` header, empty without one."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        username, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return username, password


# Creates and updates


def _complete(form: Pairs) -> Values:
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
        raise invalid(f"From {from_} is not a valid phone number.", 21212)
    if parameters.is_phone_number(to) and not parameters.is_phone_number(from_):
        raise invalid("To call a phone number, From must be a phone number, too.", 21212)


def _outbound(values: Values, script: Script, now: float, ring_at: float) -> Call:
    timeout = int(single(values, "Timeout") or lifecycle.DEFAULT_TIMEOUT)
    time_limit = int(single(values, "TimeLimit") or lifecycle.DEFAULT_TIME_LIMIT)
    url = single(values, "Url")
    twiml = None if url else single(values, "Twiml")
    hang_up = lifecycle.hangs_up_after(twiml)
    life = lifecycle.plan(
        script, ring_at, timeout, time_limit if hang_up is None else min(time_limit, hang_up)
    )
    reports = "ApplicationSid" not in values  # an application has callbacks of its own
    return Call(
        **life._asdict(),
        sid=_new_sid(),
        to=values["To"][0],
        from_=values["From"][0],
        direction="outbound-api",
        status="queued",
        created=now,
        updated=now,
        hangs_up_at=None if hang_up is None else (life.answer_at or now) + hang_up,
        time_limit=time_limit,
        detects=_detects(values, script),
        queue_ms=round((ring_at - now) * 1000),
        url=url,
        twiml=twiml,
        fixed_price=script.price,
        callback_url=single(values, "StatusCallback") if reports else None,
        callback_method=single(values, "StatusCallbackMethod") or "POST",
        callback_events=" ".join(values.get("StatusCallbackEvent", ("completed",))),
    )


def _detects(values: Values, script: Script) -> str | None:
    detection = single(values, "MachineDetection")
    if detection is None or "SendDigits" in values:
        return None
    return lifecycle.finding(cast("lifecycle.Detection", detection), script.answered_by)


def _both_records(outbound: Call) -> tuple[Call, Call]:
    inbound = outbound._replace(
        sid=_new_sid(),
        direction="inbound",
        detects=None,
        queue_ms=0,
        peer_sid=outbound.sid,
        url=None,
        twiml=None,
        fixed_price=None,
        callback_url=None,
    )
    return outbound._replace(peer_sid=inbound.sid), inbound


def _new_sid() -> str:
    return f"CA{secrets.token_hex(16)}"


def _change(form: Pairs) -> Callable[[Call, float], Call]:
    """Return what the form of an update does to a call, as a function of the call and the time."""
    values = checked(form, parameters.UPDATE)
    if not values:
        raise invalid("The update names nothing to change.")
    url, twiml = single(values, "Url"), single(values, "Twiml")
    if url and twiml:
        raise invalid("Url and Twiml exclude each other.")
    callback = single(values, "StatusCallback")
    method = single(values, "StatusCallbackMethod")
    seconds, status = single(values, "TimeLimit"), single(values, "Status")

    def apply(call: Call, now: float) -> Call:
        lifecycle.require_live(call)
        if callback or method:
            call = call._replace(
                callback_url=callback or call.callback_url,
                callback_method=method or call.callback_method,
                updated=now,
            )
        if url or twiml:
            call = lifecycle.redirected(call, now, url=url, twiml=twiml)
        if seconds:
            call = lifecycle.limited(call, now, int(seconds))
        if status:
            call = lifecycle.ended(call, now, cast("Literal['canceled', 'completed']", status))
        return call

    return apply


# Endpoints


@dataclass(frozen=True)
class Incoming:
    """An authenticated request: its path, the SID in it, and its parameters."""

    path: str
    sid: str
    query: Pairs
    form: Pairs


Endpoint = Callable[[Incoming], Response]


@dataclass(frozen=True)
class CallsApi:
    """The Calls API of one account.

    Attributes:
        account: The account.
        store: Its calls.
        owned: Its numbers.
        scenario: What the destinations do.
        interval: Seconds between one call that is dialled and the next.
    """

    account: Account
    store: CallStore
    owned: Collection[str]
    scenario: Scenario
    interval: float

    def application(self) -> Starlette:
        """Return the ASGI application that serves these calls."""
        collection = collection_path("{account}")
        item = f"/{API_VERSION}/Accounts/{{account}}/Calls/{{sid}}.json"
        routes = [
            self._route(collection, {"GET": self._list, "POST": self._create}),
            self._route(item, {"GET": self._fetch, "POST": self._update, "DELETE": self._delete}),
        ]
        handlers = {ApiError: refuse, HTTPException: _refuse_route}
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False
        return app

    def _route(self, path: str, endpoints: Mapping[str, Endpoint]) -> Route:
        async def guarded(request: Request) -> Response:
            self.account.authenticate(request.headers.get("authorization"))
            if request.path_params["account"] != self.account.sid:
                raise not_found(request.url.path)
            endpoint = endpoints["GET" if request.method == "HEAD" else request.method]
            return endpoint(await _incoming(request))

        return Route(path, guarded, methods=list(endpoints))

    def _create(self, incoming: Incoming) -> Response:
        checked(incoming.query, parameters.NOTHING)
        calls = self.store.place(partial(self._placed, incoming.form), self.interval)
        return self._answer(calls[0], incoming, status=201)

    def _placed(self, form: Pairs, now: float, ring_at: float) -> tuple[Call, ...]:
        """Return the records of the call that the form asks for, the outbound one first."""
        values = _complete(form)
        to, from_ = values["To"][0], values["From"][0]
        script = self.scenario.script_of(to)
        _check_from(from_, to)
        if parameters.is_phone_number(from_) and from_ not in {VALID_FROM, *self.owned}:
            raise invalid(f"From {from_} is not a number of this account, nor verified.", 21210)
        outbound = _outbound(values, script, now, ring_at)
        return _both_records(outbound) if to in self.owned else (outbound,)

    def _list(self, incoming: Incoming) -> Response:
        query = parsed(incoming.query)
        stretch = self.store.stretch(query.criteria, query.size, query.anchor)
        return JSONResponse(page(query, stretch, self.account.sid))

    def _fetch(self, incoming: Incoming) -> Response:
        checked(incoming.query, parameters.NOTHING)
        return self._answer(self.store.get(incoming.sid), incoming)

    def _update(self, incoming: Incoming) -> Response:
        checked(incoming.query, parameters.NOTHING)
        return self._answer(self.store.amend(incoming.sid, _change(incoming.form)), incoming)

    def _delete(self, incoming: Incoming) -> Response:
        checked(incoming.query, parameters.NOTHING)
        if not self.store.delete(incoming.sid, lifecycle.require_over):
            raise not_found(incoming.path)
        return Response(status_code=204)

    def _answer(self, call: Call | None, incoming: Incoming, status: int = 200) -> Response:
        if call is None:
            raise not_found(incoming.path)
        return JSONResponse(resource(call, self.account.sid), status)


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
    """Return the parameters of a form or query string, in order, empty ones included."""
    return tuple(parse_qsl(text, keep_blank_values=True))


def refuse(_: Request, error: Exception) -> Response:
    """Answer an ApiError."""
    refusal = cast("ApiError", error)
    unauthorized = refusal.status == HTTPStatus.UNAUTHORIZED
    return JSONResponse(refusal.body(), refusal.status, CHALLENGE if unauthorized else None)


def _refuse_route(request: Request, error: Exception) -> Response:
    failure = cast("HTTPException", error)
    if failure.status_code == HTTPStatus.NOT_FOUND:
        return refuse(request, not_found(request.url.path))
    refusal = ApiError(failure.status_code, METHOD_NOT_ALLOWED, "Method not allowed")
    return JSONResponse(refusal.body(), refusal.status, failure.headers)
