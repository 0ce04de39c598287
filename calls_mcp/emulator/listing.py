"""The list of calls: its filters, and the page that answers it."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from calls_mcp.emulator.calls import Resource, collection_path, resource
from calls_mcp.emulator.parameters import LIST, Pairs, Values, checked, invalid, moment, single
from calls_mcp.emulator.storage import Anchor, Criterion, Field, Stretch

DEFAULT_PAGE_SIZE = 50
DAY = 86_400

_SAME: Mapping[str, Field] = {
    "To": "to",
    "From": "from_",
    "ParentCallSid": "parent_call_sid",
    "Status": "status",
}
_TIMES: Mapping[str, Field] = {"StartTime": "started", "EndTime": "ended"}
_PAGING = frozenset({"PageSize", "Page", "PageToken"})

Page = Mapping[str, int | str | list[Resource] | None]


class Query(NamedTuple):
    """What a list request asks for.

    Attributes:
        filters: Its filters as they came: every page's URI repeats them.
        criteria: The same for the store.
        size: How many calls go on a page.
        number: Which page it is, from 0.
        anchor: The call beside which the page begins, None for the first page.
    """

    filters: Pairs
    criteria: tuple[Criterion, ...]
    size: int
    number: int
    anchor: Anchor | None


def parsed(pairs: Pairs) -> Query:
    """Parse the query string of a list request; ApiError (400) says what is wrong."""
    values = checked(pairs, LIST)
    number = int(single(values, "Page") or 0)
    token = single(values, "PageToken")
    if number and token is None:
        raise invalid("A page after the first needs the PageToken of its next_page_uri.")
    return Query(
        filters=tuple(pair for pair in pairs if pair[0] not in _PAGING),
        criteria=(*_same(values), *_spans(values)),
        size=int(single(values, "PageSize") or DEFAULT_PAGE_SIZE),
        number=number,
        anchor=_anchor(token) if token else None,
    )


def _same(values: Values) -> Iterator[Criterion]:
    for name, field in _SAME.items():
        if (value := single(values, name)) is not None:
            yield Criterion(field, "=", value)


def _spans(values: Values) -> Iterator[Criterion]:
    """Yield the bounds of the date filters: on that day, before it, after it."""
    for name, field in _TIMES.items():
        if (on := _instant(values, name)) is not None:
            midnight = on // DAY * DAY
            yield Criterion(field, ">=", midnight)
            yield Criterion(field, "<", midnight + DAY)
        if (before := _instant(values, f"{name}<")) is not None:
            yield Criterion(field, "<=", before)
        if (after := _instant(values, f"{name}>")) is not None:
            yield Criterion(field, ">=", after)


def _instant(values: Values, name: str) -> float | None:
    text = single(values, name)
    return None if text is None else moment(text)


def page(query: Query, stretch: Stretch, account_sid: str) -> Page:
    """Return the envelope around the calls of one page."""
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
