"""Walking the pages of a list: up to a limit, within a size, from a cursor on."""

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
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Pair, Request
from calls_mcp.twilio.responses import Response, no_usable_response

_TYPICAL_SUMMARY = 420  # bytes of JSON
_SMALLEST_PAGE = 50
_LARGEST_PAGE = 1000
_ENVELOPE = 2048  # bytes of a result that are not calls: the cursor, the warnings
_MOST_SOUGHT = 20  # pages
_PLACE = ("PageSize", "Page", "PageToken")
_PLACE_VALUE = re.compile(r"[!-~]{1,512}")  # what a cursor has room for


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a list: a page, as pairs of its query, and the SID of the last call taken of it.

    Nothing else of the API's `next_page_uri` is ever used, so it can lead to no other resource.
    """

    page: tuple[Pair, ...]
    after: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What was collected; `next` is where to go on, None at the end of the list."""

    calls: list[CallSummary]
    warnings: list[str]
    next: Position | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one answer tells at most: so many calls, and bytes of JSON."""

    calls: int
    bytes: int

    @property
    def page_size(self) -> int:
        """Return how many calls to read at once: no more than are wanted and can be returned."""
        # To read a thousand calls, as the API advises, and return 150 would be a waste.
        fitting = max(_SMALLEST_PAGE, (self.bytes - _ENVELOPE) // _TYPICAL_SUMMARY)
        return min(self.calls, fitting, _LARGEST_PAGE)


async def collect(
    twilio: TwilioClient, request: Request, start: Position, bounds: Bounds, report: ReportProgress
) -> Listing:
    """Return the calls from `start` on, as many as `bounds` allow.

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
    """Return the page with the last call taken, which newer calls may have pushed down since.

    If that call has gone, the page where it was: rather twice than never.
    """
    first = page = await read(start)
    place = start
    for _ in range(_MOST_SOUGHT):
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
    """Takes calls page by page, until the limit is reached or no further page would fit."""

    def __init__(self, limit: int, budget: int) -> None:
        self.calls: list[CallSummary] = []
        self.is_over = False
        self._limit = limit
        self._left = budget
        self._unreadable = 0
        self._is_broken_off = False

    def take(self, page: _Page, position: Position) -> Position | None:
        """Take what fits of `page`, and say where to go on."""
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
        await report(read, self._limit, f"{read} call{'' if read == 1 else 's'} read")

    def warnings(self, position: Position | None) -> list[str]:
        """Return what the reader must know about what is not there."""
        entries = "entry" if self._unreadable == 1 else "entries"
        unreadable = f"{self._unreadable} {entries} could not be read"
        warnings = [unreadable] if self._unreadable else []
        if self._is_broken_off:
            warnings.append("there may be more calls: the API named a next page that is none")
        if position is not None and not self._is_full:
            count = f"{len(self.calls)} of the {self._limit} calls asked for"
            warnings.append(f"{count} fit in one answer; next_cursor brings the rest")
        return warnings

    @property
    def _is_full(self) -> bool:
        return len(self.calls) >= self._limit

    def _fitting(self, calls: Sequence[CallSummary]) -> list[int]:
        """Return the sizes in bytes of the calls that fit in an answer; the first always does."""
        sizes = [len(orjson.dumps(call.content())) + 1 for call in calls]
        room = self._limit - len(self.calls)
        fitting = min(room, bisect_right([*accumulate(sizes)], self._left))
        return sizes[: max(fitting, 0 if self.calls else 1)]


def _read(request: Request, response: Response) -> _Page:
    entries, following = response.payload.get("calls"), _next(response.payload.get("next_page_uri"))
    if not isinstance(entries, list):
        raise no_usable_response(request, "the API's answer has no list of calls")
    listed = (_listed(entry, request.account_sid) for entry in entries)
    calls = tuple(call for call in listed if call is not None)
    is_broken_off = bool(response.payload.get("next_page_uri")) and following is None
    return _Page(calls, len(entries) - len(calls), following, is_broken_off)


def _listed(entry: Json, account_sid: str) -> CallSummary | None:
    """Return a call of this account, whose SID (a tenth of an answer) a list has only once."""
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
