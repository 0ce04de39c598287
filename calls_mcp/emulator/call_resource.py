"""The JSON object of a call."""

import re

from calls_mcp.emulator.call_lifecycle import Call
from calls_mcp.emulator.clock import rfc2822
from calls_mcp.emulator.list_pages import Resource
from calls_mcp.emulator.numbers import number_sid
from calls_mcp.emulator.parameters import API_VERSION

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
_NORTH_AMERICAN = re.compile(r"\+1([0-9]{3})([0-9]{3})([0-9]{4})")


def call_path(account_sid: str, call_sid: str) -> str:
    """Return the path of a call."""
    return f"/{API_VERSION}/Accounts/{account_sid}/Calls/{call_sid}.json"


def resource(call: Call, account_sid: str) -> Resource:
    """Return the JSON object of a call. Values are strings or null."""
    path = call_path(account_sid, call.sid)
    waits = 0 if call.direction == "inbound" else call.ring_at - call.created
    return {
        "sid": call.sid,
        "account_sid": account_sid,
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


def formatted(address: str) -> str:
    """Format a North American number as `(617) 555-1212`, and return other addresses unchanged."""
    match = _NORTH_AMERICAN.fullmatch(address)
    return "({}) {}-{}".format(*match.groups()) if match else address
