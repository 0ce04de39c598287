"""Search calls: filters that the API supports, and others that are applied to its results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from operator import itemgetter
from typing import cast
from zoneinfo import ZoneInfo

from starlette.requests import Request

from calls_mcp.audit.search import NOWHERE, Origin
from calls_mcp.console.reader_time import bounds, date_faults, zone_of
from calls_mcp.tools.call_summary import FINAL, LIVE, CallSummary
from calls_mcp.tools.catalog import Json

STATUSES = (*sorted(LIVE), *sorted(FINAL))
DIRECTIONS = ("inbound", "outbound-api", "outbound-dial", "trunking-originating")
SORTS: Mapping[str, str] = {
    "status": "status",
    "from": "from_",
    "to": "to",
    "created": "created_at",
    "duration": "duration_seconds",
    "cost": "cost",
}
"""The columns that can be sorted, and their fields."""
_TIMES = ("start_time_after", "start_time_before")
_NUMBERS = ("duration_seconds", "cost")
_MAX_TEXT = 200  # characters
_LEGIBLE = " ()-./\u00a0"


@dataclass(frozen=True, slots=True)
class CallFilter:
    """The conditions that a call must meet. Empty ones are ignored.

    `search` is part of either party's phone number or of the SID. `since` and `until` are dates in
    `zone`, both included. `by` is part of the name of the principal that requested the call.
    """

    zone: ZoneInfo
    search: str = ""
    status: str = ""
    direction: str = ""
    from_: str = ""
    to: str = ""
    since: str = ""
    until: str = ""
    by: str = ""

    @property
    def given(self) -> dict[str, str]:
        """The conditions that are not empty, by their name in the URL."""
        values = {key: getattr(self, name) for name, key in _KEYS.items()}
        return {key: value for key, value in values.items() if value}

    @property
    def faults(self) -> Iterator[str]:
        """What is wrong with the values, one sentence each."""
        yield from date_faults(self.since, self.until)
        for name, value, known in (
            ("Status", self.status, STATUSES),
            ("Direction", self.direction, DIRECTIONS),
        ):
            if value and value not in known:
                yield f"{name}: use one of {', '.join(known)}."

    @property
    def is_local(self) -> bool:
        """Whether the API does not support all conditions."""
        return bool(self.search or self.direction or self.by)

    @property
    def arguments(self) -> dict[str, Json]:
        """The arguments of list_calls."""
        names = {"status": self.status, "from": _compact(self.from_), "to": _compact(self.to)}
        times = zip(_TIMES, bounds(self.since, self.until, self.zone), strict=True)
        names |= {name: time and f"{time}Z" for name, time in times}
        return {name: value for name, value in names.items() if value}

    def matches(self, call: CallSummary, origins: Mapping[str, Origin]) -> bool:
        """Return whether a call that the API returned is wanted."""
        if self.direction and call.direction != self.direction:
            return False
        if self.by.casefold() not in origins.get(call.sid, NOWHERE).requester.casefold():
            return False
        wanted = _compact(self.search).casefold()
        return any(wanted in f"{text or ''}".casefold() for text in (call.from_, call.to, call.sid))


_KEYS = {field.name: field.name.rstrip("_") for field in fields(CallFilter)[1:]}
"""The name in the URL of each condition."""


def parse_filter(request: Request) -> CallFilter:
    """Return the filter in a URL, which may have `faults`."""
    query = request.query_params
    values = {name: query.get(key, "").strip()[:_MAX_TEXT] for name, key in _KEYS.items()}
    return CallFilter(zone_of(request), **values)


def sort_calls(calls: Sequence[CallSummary], order: str) -> Sequence[CallSummary]:
    """Return the calls by a column of `SORTS`, descending with a leading `-`, unknown values last.

    An unknown column changes nothing.
    """
    name = SORTS.get(order.removeprefix("-"))
    if name is None:
        return calls
    keyed = [(_sort_key(call, name), call) for call in calls]
    known = [(key, call) for key, call in keyed if key is not None]
    known.sort(key=itemgetter(0), reverse=order.startswith("-"))
    return [*(call for _, call in known), *(call for key, call in keyed if key is None)]


def _sort_key(call: CallSummary, name: str) -> str | Decimal | None:
    value: str | int | None = getattr(call, name)
    return Decimal(value) if value is not None and name in _NUMBERS else cast("str | None", value)


def _compact(number: str) -> str:
    """Return a number without the characters that only make it legible; leave other texts."""
    compact = number.translate(dict.fromkeys(map(ord, _LEGIBLE)))
    return compact if compact.removeprefix("+").isdigit() else number
