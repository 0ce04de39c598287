"""The list of calls: what a query selects, and the page it is answered with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlencode

from calls_mcp.emulator.errors import invalid
from calls_mcp.emulator.resource import Resource, collection_path, resource
from calls_mcp.emulator.rules import LIST, Pairs, Values, checked, moment, single
from calls_mcp.emulator.selection import Anchor, Criterion, Field
from calls_mcp.emulator.store import Stretch

DEFAULT_PAGE_SIZE = 50
DAY = 86_400

SAME: Mapping[str, Field] = {
    "To": "to",
    "From": "from_",
    "ParentCallSid": "parent_call_sid",
    "Status": "status",
}
TIMES: Mapping[str, Field] = {"StartTime": "started", "EndTime": "ended"}
PAGING = frozenset({"PageSize", "Page", "PageToken"})

Page = Mapping[str, int | str | list[Resource] | None]


@dataclass(frozen=True)
class Query:
    """What a list request asks for.

    Attributes:
        filters: Its filters as they came: every page's URI carries them on.
        criteria: The same for the store.
        size: How many calls go on a page.
        number: Which page it is, from 0.
        anchor: Beside which call the page lies, None for the first page.
    """

    filters: Pairs
    criteria: tuple[Criterion, ...]
    size: int
    number: int
    anchor: Anchor | None


def parsed(pairs: Pairs) -> Query:
    """The query out of a list request's query string.

    Raises:
        ApiError: 400, if a key or a value is not in order.
    """
    values = checked(pairs, LIST)
    number = int(single(values, "Page") or 0)
    token = single(values, "PageToken")
    if number and token is None:
        raise invalid("A page after the first needs the PageToken of its next_page_uri.")
    return Query(
        filters=tuple(pair for pair in pairs if pair[0] not in PAGING),
        criteria=_criteria(values),
        size=int(single(values, "PageSize") or DEFAULT_PAGE_SIZE),
        number=number,
        anchor=_anchor(token) if token else None,
    )


def page(query: Query, stretch: Stretch, account_sid: str) -> Page:
    """The envelope around the calls of one page."""
    start = query.number * query.size
    path = collection_path(account_sid)
    newer = Anchor("newer", stretch.newest) if query.number and stretch.calls else None
    older = Anchor("older", stretch.oldest) if stretch.more else None
    return {
        "calls": [resource(call, account_sid) for call in stretch.calls],
        "page": query.number,
        "page_size": query.size,
        "start": start,
        "end": start + max(len(stretch.calls) - 1, 0),
        "uri": _uri(path, query, query.number, query.anchor),
        "first_page_uri": _uri(path, query, 0, None),
        "previous_page_uri": newer and _uri(path, query, query.number - 1, newer),
        "next_page_uri": older and _uri(path, query, query.number + 1, older),
    }


def _uri(path: str, query: Query, number: int, anchor: Anchor | None) -> str:
    pairs = [*query.filters, ("PageSize", str(query.size)), ("Page", str(number))]
    if anchor is not None:
        pairs.append(("PageToken", _token(anchor)))
    return f"{path}?{urlencode(pairs)}"


def _token(anchor: Anchor) -> str:
    return f"P{'A' if anchor.side == 'older' else 'B'}CA{anchor.seq:032x}"


def _anchor(token: str) -> Anchor:
    return Anchor("older" if token.startswith("PA") else "newer", int(token[4:], 16))


def _criteria(values: Values) -> tuple[Criterion, ...]:
    same = [
        Criterion(field, "=", values[name][0]) for name, field in SAME.items() if name in values
    ]
    times = [each for name, field in TIMES.items() for each in _span(values, name, field)]
    return (*same, *times)


def _span(values: Values, name: str, field: Field) -> Iterator[Criterion]:
    """The bounds that up to three date filters set: on that day, before it, after it."""
    if (on := single(values, name)) is not None:
        midnight = _instant(on) // DAY * DAY
        yield Criterion(field, ">=", midnight)
        yield Criterion(field, "<", midnight + DAY)
    if (before := single(values, f"{name}<")) is not None:
        yield Criterion(field, "<=", _instant(before))
    if (after := single(values, f"{name}>")) is not None:
        yield Criterion(field, ">=", _instant(after))


def _instant(text: str) -> float:
    return cast("float", moment(text))
