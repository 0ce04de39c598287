"""The JSON object of a page, and the query that selects one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self
from urllib.parse import urlencode

from calls_mcp.emulator.api.parameters import Pairs, Parameter, Values, checked, moment
from calls_mcp.emulator.api_errors import invalid
from calls_mcp.emulator.sqlite_database import Anchor, Filter, Page

DEFAULT_PAGE_SIZE = 50
DAY = 86_400  # seconds

_PAGING = frozenset({"PageSize", "Page", "PageToken"})

Json = str | int | None | Mapping[str, str]
Resource = Mapping[str, Json]
Envelope = Mapping[str, int | str | Sequence[Resource] | None]


class Listing(NamedTuple):
    """A list of resources.

    Attributes:
        name: The key of the list in the JSON object of a page.
        prefix: The prefix of the resources' SIDs.
        parameters: The parameters of a query.
        equal: The column of each parameter that selects a value.
        times: The column of each parameter that selects times.
    """

    name: str
    prefix: str
    parameters: Mapping[str, Parameter]
    equal: Mapping[str, str]
    times: Mapping[str, str]


class ListQuery(NamedTuple):
    """The query of a list request.

    Attributes:
        listing: The list.
        pairs: The filters in their original form, which the URIs of all pages repeat.
        filters: The same filters for the store.
        size: The number of resources on a page.
        number: The number of the page, from 0.
        anchor: The position where the page begins, None for the first page.
    """

    listing: Listing
    pairs: Pairs
    filters: tuple[Filter, ...]
    size: int
    number: int
    anchor: Anchor | None

    @classmethod
    def parse(cls, listing: Listing, pairs: Pairs) -> Self:
        """Parse the query string of a list request. Raise ApiError (400) if it is invalid."""
        values = checked(pairs, listing.parameters)
        number = int(values.get("Page", 0))
        token = values.get("PageToken")
        if number and token is None:
            raise invalid("A later page needs the PageToken from next_page_uri.")
        return cls(
            listing=listing,
            pairs=tuple(pair for pair in pairs if pair[0] not in _PAGING),
            filters=tuple(_filters(listing, values)),
            size=int(values.get("PageSize", DEFAULT_PAGE_SIZE)),
            number=number,
            anchor=_anchor(token) if token else None,
        )

    def envelope(self, path: str, page: Page[Resource]) -> Envelope:
        """Return the JSON object of a page of the list at `path`, with links to its neighbors."""
        start = self.number * self.size
        older, newer = page.older, page.newer if self.number else None
        return {
            self.listing.name: page.items,
            "page": self.number,
            "page_size": self.size,
            "start": start,
            "end": start + max(len(page.items) - 1, 0),
            "uri": self._uri(path, self.number, self.anchor),
            "first_page_uri": self._uri(path, 0, None),
            "previous_page_uri": newer and self._uri(path, self.number - 1, newer),
            "next_page_uri": older and self._uri(path, self.number + 1, older),
        }

    def _uri(self, path: str, number: int, anchor: Anchor | None) -> str:
        pairs = [*self.pairs, ("PageSize", str(self.size)), ("Page", str(number))]
        if anchor is not None:
            side = "A" if anchor.side == "older" else "B"
            pairs.append(("PageToken", f"P{side}{self.listing.prefix}{anchor.seq:032x}"))
        return f"{path}?{urlencode(pairs)}"


def _anchor(token: str) -> Anchor:
    return Anchor("older" if token.startswith("PA") else "newer", int(token[4:], 16))


def _filters(listing: Listing, values: Values) -> Iterator[Filter]:
    """Yield the filters. A date without an operator selects that day; `<` and `>` include it."""
    for name, column in listing.equal.items():
        if name in values:
            yield Filter(column, "=", values[name])
    for name, column in listing.times.items():
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
