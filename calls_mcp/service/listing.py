"""Read the pages of a list, up to a number of calls and a size."""

import re
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from urllib.parse import parse_qsl, urlsplit

import orjson

from calls_mcp.tools.call_summary import NotACall, summarize
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import CallSummary, ReportProgress
from calls_mcp.tools.wording import counted
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Pair, Request
from calls_mcp.twilio.responses import Response, no_usable_response

_TYPICAL_SUMMARY = 420  # bytes of JSON
_SMALLEST_PAGE = 50
_LARGEST_PAGE = 1000
_ENVELOPE = 2048  # bytes of a result for the cursor and warnings
_MAX_SEARCHED = 20  # pages
_PLACE = ("PageSize", "Page", "PageToken")
_PLACE_VALUE = re.compile(r"[!-~]{1,512}")  # what fits in a cursor


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a list: the query of a page, and the SID of the last call taken from it.

    Nothing else of the API's `next_page_uri` is used, so it can't lead to another resource.
    """

    page: tuple[Pair, ...]
    after: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The calls that were read. `next` is the position to continue at, None at the end."""

    calls: list[CallSummary]
    warnings: list[str]
    next: Position | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of one result: a number of calls, and bytes of JSON."""

    calls: int
    bytes: int

    @property
    def page_size(self) -> int:
        """How many calls to read at once: no more than can be returned."""
        # The API advises pages of 1000, but about 150 fit in a result.
        fitting = max(_SMALLEST_PAGE, (self.bytes - _ENVELOPE) // _TYPICAL_SUMMARY)
        return min(self.calls, fitting, _LARGEST_PAGE)


async def collect(
    twilio: TwilioClient, request: Request, start: Position, bounds: Bounds, report: ReportProgress
) -> Listing:
    """Return the calls from `start` on, up to `bounds`.

    Raises:
        InvocationError: A page could not be read.
    """

    async def read(position: Position) -> _Page:
        return _read(request, await twilio.send(request.with_query(*position.page)))

    walk = _Walk(bounds.calls, bounds.bytes - _ENVELOPE)
    page, place = await _find(read, start)
    position = walk.take(page, place)
    await walk.tell(report)
    while position is not None and not walk.is_over:
        before = len(walk.calls)
        position = walk.take(await read(position), position)
        if len(walk.calls) > before:  # progress must increase
            await walk.tell(report)
    return Listing(walk.calls, walk.warnings(position), position)


async def _find(
    read: Callable[[Position], Awaitable["_Page"]], start: Position
) -> tuple["_Page", Position]:
    """Return the page that now contains the last call taken, since newer calls shift the pages.

    If that call is gone, return the page where it was: a repeated call is better than a lost one.
    """
    first = page = await read(start)
    place = start
    for _ in range(_MAX_SEARCHED):
        if not start.after or start.after in page.sids:
            return page, place
        if page.next is None:
            break
        place = Position(page.next.page, start.after)
        page = await read(place)
    return first, start


@dataclass(frozen=True, slots=True)
class _Page:
    calls: tuple[CallSummary, ...]
    unreadable: int
    next: Position | None
    is_broken_off: bool

    @property
    def sids(self) -> list[str]:
        return [call.sid for call in self.calls]

    def after(self, sid: str) -> tuple[CallSummary, ...]:
        return self.calls[self.sids.index(sid) + 1 if sid in self.sids else 0 :]


class _Walk:
    """Takes calls page by page until the limit is reached or the next page would not fit."""

    def __init__(self, limit: int, budget: int) -> None:
        self.calls: list[CallSummary] = []
        self.is_over = False
        self._limit = limit
        self._left = budget
        self._unreadable = 0
        self._is_broken_off = False

    def take(self, page: _Page, position: Position) -> Position | None:
        """Take the calls of `page` that fit, and return the position to continue at."""
        self._unreadable += page.unreadable
        self._is_broken_off = page.is_broken_off
        calls = page.after(position.after)
        sizes = self._fitting(calls)
        self.calls += calls[: len(sizes)]
        self._left -= sum(sizes)
        if len(sizes) < len(calls):
            self.is_over = True
            return Position(position.page, self.calls[-1].sid)
        self.is_over = self._is_full or not page.calls or sum(sizes) > self._left
        return page.next

    async def tell(self, report: ReportProgress) -> None:
        """Report the progress."""
        read = len(self.calls)
        await report(read, self._limit, f"{counted(read, 'call')} read")

    def warnings(self, position: Position | None) -> list[str]:
        """Return the warnings about calls that are missing from the result."""
        entries = "entry" if self._unreadable == 1 else "entries"
        unreadable = f"{self._unreadable} {entries} could not be read"
        warnings = [unreadable] if self._unreadable else []
        if self._is_broken_off:
            warnings.append("there may be more calls: the API's link to the next page is invalid")
        if position is not None and not self._is_full:
            count = f"only {len(self.calls)} of the {self._limit} requested calls"
            warnings.append(f"{count} fit in one result; use next_cursor to get the rest")
        return warnings

    @property
    def _is_full(self) -> bool:
        return len(self.calls) >= self._limit

    def _fitting(self, calls: Sequence[CallSummary]) -> list[int]:
        """Return the sizes in bytes of the calls that fit in the result. The first always fits."""
        sizes = [len(orjson.dumps(call.content())) + 1 for call in calls]
        room = self._limit - len(self.calls)
        fitting = min(room, bisect_right([*accumulate(sizes)], self._left))
        return sizes[: max(fitting, 0 if self.calls else 1)]


def _read(request: Request, response: Response) -> _Page:
    entries, following = response.payload.get("calls"), _next(response.payload.get("next_page_uri"))
    if not isinstance(entries, list):
        raise no_usable_response(request, "the API's response has no list of calls")
    listed = (_listed(entry, request.account_sid) for entry in entries)
    calls = tuple(call for call in listed if call is not None)
    is_broken_off = bool(response.payload.get("next_page_uri")) and following is None
    return _Page(calls, len(entries) - len(calls), following, is_broken_off)


def _listed(entry: Json, account_sid: str) -> CallSummary | None:
    """Return a call of this account, without the account's SID, which the list has once."""
    if not isinstance(entry, dict) or entry.pop("account_sid", None) != account_sid:
        return None
    try:
        return summarize(entry)
    except NotACall:
        return None


def _next(uri: Json) -> Position | None:
    if not isinstance(uri, str):
        return None
    try:
        told = dict(parse_qsl(urlsplit(uri).query))
    except ValueError:
        return None
    page = tuple((name, told[name]) for name in _PLACE if name in told)
    if not all(_PLACE_VALUE.fullmatch(value) for _, value in page):
        return None
    return Position(page) if {*_PLACE[1:]} & {*told} else None
