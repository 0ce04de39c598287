"""How a call looks in the service's JSON: every value a string or null."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime

from calls_mcp.emulator.addresses import formatted
from calls_mcp.emulator.call import Call

VERSION = "2010-04-01"

SUBRESOURCES = {
    "events": "Events",
    "notifications": "Notifications",
    "payments": "Payments",
    "recordings": "Recordings",
    "siprec": "Siprec",
    "streams": "Streams",
    "transcriptions": "Transcriptions",
    "user_defined_messages": "UserDefinedMessages",
    "user_defined_message_subscriptions": "UserDefinedMessageSubscriptions",
}

Resource = Mapping[str, str | Mapping[str, str] | None]


def collection_path(account_sid: str) -> str:
    """The path of the list of calls."""
    return f"/{VERSION}/Accounts/{account_sid}/Calls.json"


def resource(call: Call, account_sid: str) -> Resource:
    """The JSON object that stands for a call."""
    path = f"/{VERSION}/Accounts/{account_sid}/Calls/{call.sid}"
    return {
        "sid": call.sid,
        "account_sid": account_sid,
        "parent_call_sid": call.parent_call_sid,
        "phone_number_sid": None,
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
        "date_created": _date(call.created),
        "date_updated": _date(call.updated),
        "start_time": _date(call.started),
        "end_time": _date(call.ended),
        "duration": None if call.duration is None else str(call.duration),
        "queue_time": str(call.queue_ms),
        "price": price(call),
        "price_unit": "USD",
        "answered_by": call.answered_by,
        "api_version": VERSION,
        "uri": f"{path}.json",
        "subresource_uris": {key: f"{path}/{name}.json" for key, name in SUBRESOURCES.items()},
    }


def rfc2822(when: float) -> str:
    """A time in seconds since the epoch as the service writes it: to the second, in UTC."""
    return format_datetime(datetime.fromtimestamp(when, UTC))


def price(call: Call) -> str | None:
    """What a call cost, in dollars, if that is known yet."""
    return None if call.price is None else f"{call.price:.5f}"


def _date(when: float | None) -> str | None:
    return None if when is None else rfc2822(when)
