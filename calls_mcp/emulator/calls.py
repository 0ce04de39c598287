"""A call: its record, its events, and the JSON object that the API shows."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Literal, NamedTuple

Status = Literal[
    "queued", "ringing", "in-progress", "completed", "busy", "no-answer", "failed", "canceled"
]
Direction = Literal["inbound", "outbound-api"]
Resource = Mapping[str, str | Mapping[str, str] | None]

LIVE: frozenset[Status] = frozenset({"queued", "ringing", "in-progress"})
API_VERSION = "2010-04-01"
SUBRESOURCES = (
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


class Call(NamedTuple):
    """One record, with the future that is planned for it.

    Times are in seconds since the epoch. `ring_at`, `answer_at`, `end_at`, `end_as` and `detects`
    are the plan. `calls_mcp.emulator.lifecycle` turns them into `status`, `started`, `ended`,
    `duration`, `answered_by` and `price` when their time comes.
    """

    sid: str  # `CA` and 32 hexadecimal digits
    to: str  # who is called
    from_: str  # who calls
    direction: Direction  # whether the account placed or received it
    status: Status  # where the call is now
    created: float  # when the request came in
    updated: float  # when the record last changed
    ring_at: float  # when it is dialled
    answer_at: float | None  # when it is answered, None if it never is
    end_at: float  # when it ends
    end_as: Status  # the status it ends with
    leaves_at: float | None = None  # when the person who answers would hang up, None if unknown
    hangs_up_at: float | None = None  # when its instructions hang up, None if they don't
    time_limit: float | None = None  # the most seconds of talk, None for no limit
    detects: str | None = None  # what detection will find, None if it was not requested
    started: float | None = None  # when it was dialled, None before
    ended: float | None = None  # when it ended, None before
    duration: int | None = None  # whole seconds of talk, None before the end and without an answer
    answered_by: str | None = None  # the detection's result, None before the answer
    price: float | None = None  # the cost in US dollars, negative, None until it is known
    price_at: float | None = None  # when the price becomes known, None if no price is expected
    queue_ms: int = 0  # how long it waits before it is dialled, in milliseconds
    peer_sid: str | None = None  # the other record of a call between two numbers of the account
    parent_call_sid: str | None = None  # the call that spawned it
    caller_name: str | None = None  # the caller's name as the network reported it
    forwarded_from: str | None = None  # the number that forwarded the call
    url: str | None = None  # where its instructions are fetched
    twiml: str | None = None  # its instructions, if they came with the request
    fixed_price: float | None = None  # what it will cost, if its destination has a price of its own
    callback_url: str | None = None  # the URL that receives status callbacks, None for no callbacks
    callback_method: str = "POST"  # `GET` or `POST`
    callback_events: str = "completed"  # the events that are sent there, separated by spaces

    @property
    def live(self) -> bool:
        """Whether the call is not over yet."""
        return self.status in LIVE


class Callback(NamedTuple):
    """An event of a call's life, to be sent to its callback URL."""

    id: int  # which one it is
    sid: str  # the call's SID
    sequence: int  # which of the call's events it is, from 0
    status: str  # the status to report
    at: float  # when the event happened, in seconds since the epoch
    url: str  # where it is sent
    method: str  # `GET` or `POST`
    to: str  # who was called
    from_: str  # who called
    direction: Direction  # whether the account placed or received the call
    answered_by: str | None  # the result of answering-machine detection, None before it
    duration: int | None  # whole seconds of talk, None before the end and without an answer
    attempts: int  # how many attempts at its delivery there have been
    outcome: str | None  # the HTTP status of the latest answer, or why there was none


def collection_path(account_sid: str) -> str:
    """Return the path of the list of calls."""
    return f"/{API_VERSION}/Accounts/{account_sid}/Calls.json"


def resource(call: Call, account_sid: str) -> Resource:
    """Return the JSON object for a call: every value is a string or null."""
    path = f"/{API_VERSION}/Accounts/{account_sid}/Calls/{call.sid}"
    return {
        "sid": call.sid,
        "account_sid": account_sid,
        "parent_call_sid": call.parent_call_sid,
        "phone_number_sid": None,
        "group_sid": None,
        "trunk_sid": None,
        "to": call.to,
        "to_formatted": _formatted(call.to),
        "from": call.from_,
        "from_formatted": _formatted(call.from_),
        "caller_name": call.caller_name,
        "forwarded_from": call.forwarded_from,
        "status": call.status,
        "direction": call.direction,
        "date_created": rfc2822(call.created),
        "date_updated": rfc2822(call.updated),
        "start_time": None if call.started is None else rfc2822(call.started),
        "end_time": None if call.ended is None else rfc2822(call.ended),
        "duration": None if call.duration is None else str(call.duration),
        "queue_time": str(call.queue_ms),
        "price": price(call),
        "price_unit": "USD",
        "answered_by": call.answered_by,
        "api_version": API_VERSION,
        "uri": f"{path}.json",
        "subresource_uris": {name: f"{path}/{_camel(name)}.json" for name in SUBRESOURCES},
    }


def price(call: Call) -> str | None:
    """Return the cost of a call in dollars, None if it is not known yet."""
    return None if call.price is None else f"{call.price:.5f}"


def rfc2822(when: float) -> str:
    """Format a time (seconds since the epoch) as the API does: to the second, in UTC."""
    return format_datetime(datetime.fromtimestamp(when, UTC))


def _formatted(address: str) -> str:
    """Format a North American number as `(617) 555-1212`; leave other addresses alone."""
    match = _NORTH_AMERICAN.fullmatch(address)
    return "({}) {}-{}".format(*match.groups()) if match else address


def _camel(name: str) -> str:
    return name.title().replace("_", "")
