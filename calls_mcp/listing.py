"""Walking the pages of a list: up to a limit, within a size, from a cursor on."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from calls_mcp.catalog import Json
from calls_mcp.failures import lost
from calls_mcp.outcome import CallSummary
from calls_mcp.summary import Unreadable, summarize
from calls_mcp.wire import Pair, Request

Send = Callable[[Request], Awaitable[Mapping[str, Json]]]
Report = Callable[[int, int], Awaitable[None]]
"""Is told how many calls were read, of how many asked for."""

_TYPICAL_SUMMARY = 420  # bytes of JSON
_SMALLEST_PAGE = 50
_LARGEST_PAGE = 1000
_ENVELOPE = 2048  # bytes of a result that are not calls: the cursor, the warnings
_PLACE = ("PageSize", "Page", "PageToken")


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


def first_page(limit: int, page_size: int | None, budget: int) -> Position:
    """Where a list begins; unless told otherwise, with pages no larger than can be returned."""
    fitting = max(_SMALLEST_PAGE, (budget - _ENVELOPE) // _TYPICAL_SUMMARY)
    size = page_size or min(limit, fitting, _LARGEST_PAGE)
    return Position((("PageSize", str(size)),))


async def collect(
    send: Send, request: Request, start: Position, *, limit: int, budget: int, report: Report
) -> Listing:
    """Up to `limit` calls from `start` on, in at most `budget` bytes of JSON.

    Raises:
        InvocationError: A page could not be read.
    """
    walk = _Walk(limit, budget - _ENVELOPE)
    position: Position | None = start
    while position is not None and not walk.is_over:
        payload = await send(request.with_query(*position.page))
        position = walk.take(_read(request, payload), position)
        await report(len(walk.calls), limit)
    return Listing(walk.calls, walk.warnings(position), position)


@dataclass(frozen=True, slots=True)
class _Page:
    calls: tuple[CallSummary, ...]
    unreadable: int
    next: Position | None


class _Walk:
    """Takes calls page by page, until the limit is reached or no further page would fit."""

    def __init__(self, limit: int, budget: int) -> None:
        self.calls: list[CallSummary] = []
        self.is_over = False
        self._limit = limit
        self._left = budget
        self._unreadable = 0

    def take(self, page: _Page, position: Position) -> Position | None:
        """Take what fits of `page`, and say where to go on."""
        self._unreadable += page.unreadable
        before = self._left
        for call in _after(page.calls, position.after):
            if not self._fits(call):
                self.is_over = True
                return Position(position.page, self.calls[-1]["sid"])
            self.calls.append(call)
            self._left -= _size(call)
        page_size = before - self._left
        self.is_over = self._is_full or not page.calls or page_size > self._left
        return page.next

    def warnings(self, position: Position | None) -> list[str]:
        """What the reader must know about what is not there."""
        warnings = [f"{self._unreadable} entries could not be read"] if self._unreadable else []
        if position is not None and not self._is_full:
            count = f"{len(self.calls)} of the {self._limit} calls asked for"
            warnings.append(f"{count} fit in one answer; next_cursor brings the rest")
        return warnings

    @property
    def _is_full(self) -> bool:
        return len(self.calls) >= self._limit

    def _fits(self, call: CallSummary) -> bool:
        return not self.calls or (not self._is_full and _size(call) <= self._left)


def _after(calls: tuple[CallSummary, ...], sid: str) -> Iterator[CallSummary]:
    """The calls behind the one with `sid`; all of them if it has gone: rather twice than never."""
    sids = [call["sid"] for call in calls]
    yield from calls[sids.index(sid) + 1 if sid in sids else 0 :]


def _size(call: CallSummary) -> int:
    text = json.dumps(call, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode()) + 1


def _read(request: Request, payload: Mapping[str, Json]) -> _Page:
    entries = payload.get("calls")
    if not isinstance(entries, list):
        raise lost(request, "the API's answer has no list of calls")
    calls = tuple(call for call in map(_summary, entries) if call is not None)
    return _Page(calls, len(entries) - len(calls), _next(payload.get("next_page_uri")))


def _summary(entry: Json) -> CallSummary | None:
    try:
        return summarize(entry) if isinstance(entry, dict) else None
    except Unreadable:
        return None


def _next(uri: Json) -> Position | None:
    if not isinstance(uri, str) or not uri:
        return None
    pairs = parse_qsl(urlsplit(uri).query)
    return Position(tuple(pair for pair in pairs if pair[0] in _PLACE))
