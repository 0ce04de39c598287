"""The JSON objects of the API: a call, and a page of the list."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self
from urllib.parse import urlencode

from calls_mcp.emulator.call_lifecycle import Call
from calls_mcp.emulator.call_store import Anchor, Column, Filter, Page
from calls_mcp.emulator.clock import rfc2822
from calls_mcp.emulator.parameters import (
    API_VERSION,
    LIST,
    Pairs,
    Values,
    checked,
    invalid,
    moment,
)

DEFAULT_PAGE_SIZE = 50
DAY = 86_400  # seconds

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
_PAGING = frozenset({"PageSize", "Page", "PageToken"})
_EQUAL: Mapping[str, Column] = {
    "To": "to",
    "From": "from_",
    "ParentCallSid": "parent_call_sid",
    "Status": "status",
}
_TIMES: Mapping[str, Column] = {"StartTime": "started", "EndTime": "ended"}

Resource = Mapping[str, str | Mapping[str, str] | None]
Envelope = Mapping[str, int | str | list[Resource] | None]


def collection_path(account_sid: str) -> str:
    """Return the path of the list of calls."""
    return f"/{API_VERSION}/Accounts/{account_sid}/Calls.json"


def item_path(account_sid: str, call_sid: str) -> str:
    """Return the path of a call."""
    return f"/{API_VERSION}/Accounts/{account_sid}/Calls/{call_sid}.json"


def resource(call: Call, account_sid: str) -> Resource:
    """Return the JSON object of a call. Values are strings or null."""
    path = item_path(account_sid, call.sid)
    waits = 0 if call.direction == "inbound" else call.ring_at - call.created
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


def _formatted(address: str) -> str:
    """Format a North American number as `(617) 555-1212`, and return other addresses unchanged."""
    match = _NORTH_AMERICAN.fullmatch(address)
    return "({}) {}-{}".format(*match.groups()) if match else address


class ListQuery(NamedTuple):
    """The query of a list request.

    Attributes:
        pairs: The filters in their original form, which the URIs of all pages repeat.
        filters: The same filters for the store.
        size: The number of calls on a page.
        number: The number of the page, from 0.
        anchor: The position where the page begins, None for the first page.
    """

    pairs: Pairs
    filters: tuple[Filter, ...]
    size: int
    number: int
    anchor: Anchor | None

    @classmethod
    def parse(cls, pairs: Pairs) -> Self:
        """Parse the query string of a list request. Raise ApiError (400) if it is invalid."""
        values = checked(pairs, LIST)
        number = int(values.get("Page", 0))
        token = values.get("PageToken")
        if number and token is None:
            raise invalid("A page after the first needs the PageToken of its next_page_uri.")
        return cls(
            pairs=tuple(pair for pair in pairs if pair[0] not in _PAGING),
            filters=tuple(_filters(values)),
            size=int(values.get("PageSize", DEFAULT_PAGE_SIZE)),
            number=number,
            anchor=_anchor(token) if token else None,
        )

    def envelope(self, page: Page, account_sid: str) -> Envelope:
        """Return the JSON object of a page, with links to its neighbors."""
        start = self.number * self.size
        path = collection_path(account_sid)
        older, newer = page.older, page.newer if self.number else None
        return {
            "calls": [resource(call, account_sid) for call in page.calls],
            "page": self.number,
            "page_size": self.size,
            "start": start,
            "end": start + max(len(page.calls) - 1, 0),
            "uri": self._uri(path, self.number, self.anchor),
            "first_page_uri": self._uri(path, 0, None),
            "previous_page_uri": newer and self._uri(path, self.number - 1, newer),
            "next_page_uri": older and self._uri(path, self.number + 1, older),
        }

    def _uri(self, path: str, number: int, anchor: Anchor | None) -> str:
        pairs = [*self.pairs, ("PageSize", str(self.size)), ("Page", str(number))]
        if anchor is not None:
            side = "A" if anchor.side == "older" else "B"
            pairs.append(("PageToken", f"P{side}CA{anchor.seq:032x}"))
        return f"{path}?{urlencode(pairs)}"


def _anchor(token: str) -> Anchor:
    return Anchor("older" if token.startswith("PA") else "newer", int(token[4:], 16))


def _filters(values: Values) -> Iterator[Filter]:
    """Yield the filters. A date without an operator selects that day; `<` and `>` include it."""
    for name, column in _EQUAL.items():
        if name in values:
            yield Filter(column, "=", values[name])
    for name, column in _TIMES.items():
        if (on := _time(values, name)) is not None:
            midnight = on // DAY * DAY
            yield Filter(column, ">=", midnight)
            yield Filter(column, "<", midnight + DAY)
        if (before := _time(values, f"{name}<")) is not None:
            yield Filter(column, "<=", before)
        if (after := _time(values, f"{name}>")) is not None:
            yield Filter(column, ">=", after)


def _time(values: Values, name: str) -> float | None:
    return moment(values[name]) if name in values else None
