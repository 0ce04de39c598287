"""The five endpoints of the Calls API, and the JSON object of a call."""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from calls_mcp.emulator import call_lifecycle
from calls_mcp.emulator.addresses import (
    formatted,
    in_e164,
    is_phone_number,
    is_sip_address,
    number_sid,
)
from calls_mcp.emulator.api import parameters
from calls_mcp.emulator.api.endpoints import account_route, call_in_path, form_pairs, query_pairs
from calls_mcp.emulator.api.lists import Listing, ListQuery, Resource
from calls_mcp.emulator.api.parameters import Pairs, Values, checked
from calls_mcp.emulator.api_errors import CALL_STATE, invalid
from calls_mcp.emulator.call_lifecycle import Call
from calls_mcp.emulator.call_store import CallStore
from calls_mcp.emulator.clock import rfc2822
from calls_mcp.emulator.credentials import API_VERSION, Account
from calls_mcp.emulator.recording_store import RecordingOptions
from calls_mcp.emulator.scenario import INVALID_FROM, Callee, Scenario, Script
from calls_mcp.emulator.sqlite_database import Page
from calls_mcp.emulator.voice.call_leg import Leg
from calls_mcp.emulator.voice.instructions import Instructions, Method
from calls_mcp.emulator.voice.switchboard import Switchboard

INSTRUCTIONS = ("Url", "Twiml", "ApplicationSid")

_ADDRESSES = frozenset({"To", "From"})
_LISTING = Listing(
    name="calls",
    prefix="CA",
    parameters=parameters.LIST,
    equal={"To": "to", "From": "from_", "ParentCallSid": "parent_call_sid", "Status": "status"},
    times={"StartTime": "started", "EndTime": "ended"},
)


_SUBRESOURCES = (
    "events",
    "notifications",
    "payments",
    "recordings",
    "siprec",
    "streams",
    "transcriptions",
    "user_defined_messages",
    "user_defined_message_subscriptions",
)


@dataclass(frozen=True)
class CallsApi:
    """The Calls API of one account.

    Attributes:
        account: The account.
        store: Its calls.
        switchboard: Executes their instructions.
        scenario: The behavior of destinations.
        interval: Seconds between dialing two calls.
    """

    account: Account
    store: CallStore
    switchboard: Switchboard
    scenario: Scenario
    interval: float

    def routes(self) -> list[Route]:
        """Return the routes of these calls."""
        collection = {"GET": self._list, "POST": self._create}
        item = {"GET": self._fetch, "POST": self._update, "DELETE": self._delete}
        return [
            account_route(self.account, "/Calls.json", collection),
            account_route(self.account, "/Calls/{sid}.json", item),
        ]

    async def _create(self, request: Request) -> Response:
        values = _create_values(await form_pairs(request, parameters.CREATE))
        to, from_ = values["To"], values["From"]
        script = self.switchboard.script_of(to)
        application = self.scenario.application(values.get("ApplicationSid", ""))
        _check_from(from_, to)
        if is_phone_number(from_) and not self.switchboard.owns(from_):
            raise invalid(
                f"The source phone number provided, {from_}, is not yet verified for your account.",
                21210,
            )
        with self.store.transaction() as now:
            ring_at = max(now, self.store.last_ring_at()) + self.interval
            call = _outbound(values, script, now, ring_at)
            self.switchboard.place(call, _leg(values, script, application))
        return self._response(call, HTTPStatus.CREATED)

    async def _list(self, request: Request) -> Response:
        query = ListQuery.parse(_LISTING, query_pairs(request, parameters.LIST))
        calls, newer, older = self.store.page(query.filters, query.size, query.anchor)
        page = Page(tuple(resource(call, self.account) for call in calls), newer, older)
        return JSONResponse(query.envelope(request.url.path, page))

    async def _fetch(self, request: Request) -> Response:
        query_pairs(request)
        return self._response(call_in_path(request, self.store))

    async def _update(self, request: Request) -> Response:
        values = _update_values(await form_pairs(request, parameters.UPDATE))
        with self.store.transaction() as now:
            call = _updated(call_in_path(request, self.store), values, now)
            self.switchboard.update(call)
            if "Url" in values or "Twiml" in values:
                self.switchboard.redirect(call.sid, _instructions(values), _fallback(values))
            return self._response(call_in_path(request, self.store))

    async def _delete(self, request: Request) -> Response:
        query_pairs(request)
        with self.store.transaction():
            call = call_in_path(request, self.store)
            if call.live:
                state = f"still live ({call.status})"
                raise invalid(f"Call {call.sid} is {state}. It cannot be deleted.", CALL_STATE)
            self.store.delete(call.sid)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    def _response(self, call: Call, status: HTTPStatus = HTTPStatus.OK) -> Response:
        return JSONResponse(resource(call, self.account), status)


# The JSON object


def resource(call: Call, account: Account) -> Resource:
    """Return the JSON object of a call. Values are strings or null."""
    path = f"{account.path}/Calls/{call.sid}.json"
    waits = 0 if call.direction == "inbound" else call.ring_at - call.created
    return {
        "sid": call.sid,
        "account_sid": account.sid,
        "parent_call_sid": call.parent_call_sid,
        "phone_number_sid": number_sid(call.to) if call.direction == "inbound" else None,
        "group_sid": None,
        "trunk_sid": None,
        "to": call.to,
        "to_formatted": formatted(call.to),
        "from": call.from_,
        "from_formatted": formatted(call.from_),
        "caller_name": call.caller_name,
        "forwarded_from": call.forwarded_from,
        "status": call.status,
        "direction": call.direction,
        "date_created": rfc2822(call.created),
        "date_updated": rfc2822(call.updated),
        "start_time": None if call.started is None else rfc2822(call.started),
        "end_time": None if call.ended is None else rfc2822(call.ended),
        "duration": None if call.duration is None else str(call.duration),
        "queue_time": str(round(waits * 1000)),
        "price": price(call),
        "price_unit": "USD",
        "answered_by": call.answered_by,
        "api_version": API_VERSION,
        "uri": path,
        "subresource_uris": {name: _subresource_path(path, name) for name in _SUBRESOURCES},
    }


def _subresource_path(path: str, name: str) -> str:
    return f"{path.removesuffix('.json')}/{name.title().replace('_', '')}.json"


def price(call: Call) -> str | None:
    """Return the cost of a call in dollars, None if it is not known yet."""
    return None if call.price is None else f"{call.price:.5f}"


# Creates and updates


def _create_values(form: Pairs) -> Values:
    given = tuple(
        (name, _address(name, text)) for name, text in form if text or name not in _ADDRESSES
    )
    values = checked(given, parameters.CREATE)
    if "To" not in values:
        raise invalid("No 'To' number is specified.", 21201)
    if "From" not in values:
        raise invalid("A 'From' phone number is required.", 21213)
    if not any(name in values for name in INSTRUCTIONS):
        raise invalid(f"One of {', '.join(INSTRUCTIONS)} is required.", 21205)
    return values


def _address(name: str, text: str) -> str:
    return in_e164(text) if name in _ADDRESSES else text


def _check_from(from_: str, to: str) -> None:
    if from_ == INVALID_FROM:
        raise invalid(f"The 'From' number {from_} is not a valid phone number.", 21212)
    if is_phone_number(to) and not is_phone_number(from_):
        raise invalid("To call a phone number, 'From' must be a phone number.", 21212)
    if is_sip_address(to) and "@" in from_:
        raise invalid("To call a SIP address, 'From' must not contain @.", 21212)


def _outbound(values: Values, script: Script, now: float, ring_at: float) -> Call:
    detection = None if "SendDigits" in values else values.get("MachineDetection")
    result = detection and call_lifecycle.detection_result(detection, script.answered_by)
    is_async = values.get("AsyncAmd") == "true"
    call = Call(
        sid=call_lifecycle.new_sid(),
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


def _leg(values: Values, script: Script, application: Script | None) -> Leg:
    """Return what is known about a new call besides its record."""
    if application is not None:
        leg = Leg.of_application(application, Callee(script))
    elif "ApplicationSid" in values:
        leg = Leg(Callee(script))
    else:
        leg = Leg(Callee(script), _instructions(values), _fallback(values))
    leg.keys = values.get("SendDigits", "")
    is_async = values.get("AsyncAmd") == "true"
    leg.awaits_greeting = values.get("MachineDetection") == "DetectMessageEnd" and not is_async
    return leg


def _instructions(values: Values) -> Instructions:
    url = values.get("Url", "")
    return Instructions(url, None if url else values.get("Twiml"), _method(values, "Method"))


def _fallback(values: Values) -> Instructions | None:
    url = values.get("FallbackUrl")
    return Instructions(url, None, _method(values, "FallbackMethod")) if url else None


def _method(values: Values, name: str) -> Method:
    return "GET" if values.get(name) == "GET" else "POST"


def _update_values(form: Pairs) -> Values:
    values = checked(form, parameters.UPDATE)
    if not values:
        raise invalid("No parameter to update is specified.")
    if "Url" in values and "Twiml" in values:
        raise invalid("Specify either Url or Twiml, not both.")
    return values


def _updated(call: Call, values: Values, now: float) -> Call:
    """Return the call with the changes of an update."""
    if not call.live:
        raise invalid(f"Call {call.sid} is {call.status}. It cannot be changed.", CALL_STATE)
    url, twiml, status = values.get("Url"), values.get("Twiml"), values.get("Status")
    if "StatusCallback" in values or "StatusCallbackMethod" in values:
        call = call._replace(
            callback_url=values.get("StatusCallback", call.callback_url),
            callback_method=values.get("StatusCallbackMethod", call.callback_method),
            updated=now,
        )
    if url or twiml:
        call = call._replace(url=url, twiml=twiml, updated=now)
    if "TimeLimit" in values:
        call = call_lifecycle.limited(call, now, int(values["TimeLimit"]))
    if status:
        call = call_lifecycle.ended(call, now, cast("Literal['canceled', 'completed']", status))
    return call
