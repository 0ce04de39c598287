"""Read the pages of a list, up to a number of calls and a size, and continue with a cursor."""

import re
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import cast
from urllib.parse import parse_qsl, urlsplit

import orjson

from calls_mcp.errors import Fault, InvalidArguments
from calls_mcp.guard.signing import Signer
from calls_mcp.observability.redaction import quoted
from calls_mcp.tools.call_summary import CallSummary, NotACall, summarize
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.humanize import counted
from calls_mcp.tools.outcome import ReportProgress
from calls_mcp.tools.validation import Arguments
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Pair, Request
from calls_mcp.twilio.responses import Response, no_usable_response

_TYPICAL_CALL = 220  # tokens
_BYTES_PER_TOKEN = 2.4  # of SIDs, times and field names, at least
_LONGEST_NUMBER = 16  # characters
_LINE = 80  # tokens of a call's line in the text, without free text
_SMALLEST_PAGE = 50
_LARGEST_PAGE = 1000
_LONGEST_URI = 16_384  # characters
_ENVELOPE = 1000  # tokens of a result for the cursor and warnings
_MAX_SEARCHED = 20  # pages
_MAX_STALE = 20  # pages in succession without a new call
_PLACE = ("PageSize", "Page", "PageToken")
_PLACE_VALUE = re.compile(r"[!-~]{1,128}")  # what fits in a cursor
# These may change between the pages of a list.
_FREE = frozenset({"limit", "page_size"})
_Packed = tuple[str, dict[str, Json], list[tuple[str, str]], str]


@dataclass(frozen=True, slots=True)
class ListPosition:
    """A position in a list: the query of a page, and the SID of the last call taken from it.

    Nothing else of the API's `next_page_uri` is used, so it can't lead to another resource.
    """

    page: tuple[Pair, ...]
    after: str = ""


@dataclass(frozen=True, slots=True)
class ListedCalls:
    """The calls that were read. `next` is the position to continue at, None at the end."""

    calls: list[CallSummary]
    warnings: list[str]
    next: ListPosition | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of one result: a number of calls, and tokens."""

    calls: int
    tokens: int

    @property
    def page_size(self) -> int:
        """How many calls to read at once: no more than can be returned."""
        # The API advises pages of 1000, but fewer than 100 fit in a result.
        fitting = max(_SMALLEST_PAGE, (self.tokens - _ENVELOPE) // _TYPICAL_CALL)
        return min(self.calls, fitting, _LARGEST_PAGE)


async def collect(
    twilio: TwilioClient,
    request: Request,
    start: ListPosition,
    bounds: Bounds,
    report: ReportProgress,
) -> ListedCalls:
    """Return the calls from `start` on, up to `bounds`.

    Raises:
        InvocationError: A page could not be read.
    """

    async def read(position: ListPosition) -> _Page:
        return _read(request, await twilio.send(request.with_query(*position.page)))

    # The cursor has the filters, and is shown twice.
    filters = sum(len(value) for _, value in request.query)
    walk = _Walk(bounds.calls, bounds.tokens - _ENVELOPE - 2 * filters)
    page, place = await _find(read, start)
    position = walk.take(page, place)
    await walk.tell(report)
    while position is not None and not walk.is_over:
        position = walk.take(await read(position), position)
        await walk.tell(report)
    return ListedCalls([*walk.calls.values()], walk.warnings(position), position)


async def _find(
    read: Callable[[ListPosition], Awaitable["_Page"]], start: ListPosition
) -> tuple["_Page", ListPosition]:
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
        place = ListPosition(page.next.page, start.after)
        page = await read(place)
    return first, start


@dataclass(frozen=True, slots=True)
class _Page:
    calls: tuple[CallSummary, ...]
    unreadable: int
    repeated: int
    next: ListPosition | None
    is_broken_off: bool

    @property
    def sids(self) -> list[str]:
        return [call.sid for call in self.calls]

    def after(self, sid: str) -> tuple[CallSummary, ...]:
        return self.calls[self.sids.index(sid) + 1 if sid in self.sids else 0 :]


class _Walk:
    """Takes calls page by page until the limit is reached or the next page would not fit."""

    def __init__(self, limit: int, budget: int) -> None:
        self.calls: dict[str, CallSummary] = {}
        self.is_over = False
        self._limit = limit
        self._left = budget
        self._told = -1
        self._unreadable = 0
        self._repeated = 0
        self._pages: set[tuple[Pair, ...]] = set()
        self._stale = 0
        self._broken_off = ""

    def take(self, page: _Page, position: ListPosition) -> ListPosition | None:
        """Take the new calls of `page` that fit, and return the position to continue at."""
        self._unreadable += page.unreadable
        self._pages.add(position.page)
        listed = page.after(position.after)
        calls = [call for call in listed if call.sid not in self.calls]
        sizes = self._fitting(calls)
        taken = {call.sid: call for call in calls[: len(sizes)]}
        self._repeated += page.repeated + len(listed) - len(calls)
        self._left -= sum(sizes)
        self.calls |= taken
        self._stale = 0 if calls else self._stale + 1
        if len(taken) < len(calls):
            self.is_over = True
            return ListPosition(position.page, [*taken][-1] if taken else position.after)
        self.is_over = self._is_full or sum(sizes) > self._left
        return self._following(page)

    def _following(self, page: _Page) -> ListPosition | None:
        """Return the next page, unless the API's link to it is invalid or leads nowhere new."""
        if page.is_broken_off:
            self._broken_off = "the API's link to the next page is invalid"
        elif page.next and (page.next.page in self._pages or self._stale > _MAX_STALE):
            self._broken_off = "the API repeated a page"
        return None if self._broken_off else page.next

    async def tell(self, report: ReportProgress) -> None:
        """Report the progress, which must increase."""
        read = len(self.calls)
        if read > self._told:
            self._told = read
            await report(read, self._limit, f"{counted(read, 'call')} read")

    def warnings(self, position: ListPosition | None) -> list[str]:
        """Return the warnings about calls that are missing from the result."""
        warnings: list[str] = []
        if self._unreadable:
            entries = "entry" if self._unreadable == 1 else "entries"
            warnings.append(f"{self._unreadable} {entries} could not be read")
        if self._repeated:
            warnings.append("the API listed some calls more than once; each is shown once")
        if self._broken_off:
            warnings.append(f"there may be more calls: {self._broken_off}")
        if position is not None and not self._is_full:
            count = f"only {len(self.calls)} of the {self._limit} requested calls"
            warnings.append(f"{count} fit in one result; use next_cursor to get the rest")
        return warnings

    @property
    def _is_full(self) -> bool:
        return len(self.calls) >= self._limit

    def _fitting(self, calls: Sequence[CallSummary]) -> list[int]:
        """Return the sizes in tokens of the calls that fit in the result. The first always fits."""
        sizes = [*map(_tokens, calls)]
        room = self._limit - len(self.calls)
        fitting = min(room, bisect_right([*accumulate(sizes)], self._left))
        return sizes[: max(fitting, 0 if self.calls else 1)]


def _tokens(call: CallSummary) -> int:
    """Return how many tokens a call has at most, in the structured content and the text together.

    Free text is in both. A byte is at most one token, and in some scripts it is one.
    """
    texts = (call.from_, call.to, call.forwarded_from, call.caller_name)
    free = sum(len(orjson.dumps(text)) for text in texts if text and not _is_number(text))
    rest = len(orjson.dumps(call.content())) - free
    return int(rest / _BYTES_PER_TOKEN) + _LINE + 2 * free


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("+").isdigit() and len(text) <= _LONGEST_NUMBER


def _read(request: Request, response: Response) -> _Page:
    entries, following = response.payload.get("calls"), _next(response.payload.get("next_page_uri"))
    if not isinstance(entries, list):
        raise no_usable_response(request, "the API's response has no list of calls")
    if len(entries) > _LARGEST_PAGE:
        reason = f"the API's response lists more than {_LARGEST_PAGE} calls"
        raise no_usable_response(request, reason)
    listed = (_listed(entry, request.account_sid) for entry in entries)
    readable = [call for call in listed if call is not None]
    calls = tuple({call.sid: call for call in readable}.values())
    unreadable, repeated = len(entries) - len(readable), len(readable) - len(calls)
    is_broken_off = bool(response.payload.get("next_page_uri")) and following is None
    return _Page(calls, unreadable, repeated, following, is_broken_off)


def _listed(entry: Json, account_sid: str) -> CallSummary | None:
    """Return a call of this account, without the account's SID, which the list has once."""
    if not isinstance(entry, dict) or entry.pop("account_sid", None) != account_sid:
        return None
    try:
        return summarize(entry)
    except NotACall:
        return None


def _next(uri: Json) -> ListPosition | None:
    if not isinstance(uri, str) or len(uri) > _LONGEST_URI:
        return None
    try:
        told = dict(parse_qsl(urlsplit(uri).query))
    except ValueError:
        return None
    page = tuple((name, told[name]) for name in _PLACE if name in told)
    if not all(_PLACE_VALUE.fullmatch(value) for _, value in page):
        return None
    return ListPosition(page) if {*_PLACE[1:]} & {*told} else None


@dataclass(frozen=True, slots=True)
class Cursors:
    """Issues and reads cursors. They are signed, so clients can't make their own.

    A cursor has the filters of its list, because models tend to drop arguments between pages.
    `account_sid` is the default account.
    """

    signer: Signer
    account_sid: str

    def issue(self, arguments: Arguments, position: ListPosition, principal: str) -> str:
        """Return a cursor that continues the list of `arguments` at `position`."""
        values = {k: v for k, v in arguments.values.items() if k != "page_size"}
        page: list[Json] = [[*pair] for pair in position.page]
        return self.signer.pack([self.account_sid, values, page, position.after], principal)

    def resume(
        self, arguments: Arguments, principal: str, tokens: int
    ) -> tuple[Arguments, Bounds, ListPosition]:
        """Return what to list: `arguments` with the filters of their cursor, if they have one.

        A result has at most `tokens`.

        Raises:
            InvalidArguments: The cursor was not issued to this principal, or the arguments have
                other filters.
        """
        cursor = arguments.own.get("cursor")
        if cursor is None:
            bounds = _bounds(arguments, tokens)
            return arguments, bounds, ListPosition(_page_size(arguments, bounds))
        packed = self._unpacked(cursor, principal)
        if packed is None:
            raise InvalidArguments([_not_ours(cursor)])
        _, values, page, after = packed[:4]
        own_account: dict[str, Json] = {"account_sid": self.account_sid}
        if differences := [*_differences(arguments, own_account | values)]:
            raise InvalidArguments(differences)
        merged = replace(arguments, values={**values, **arguments.values})
        bounds = _bounds(merged, tokens)
        pairs = tuple((name, value) for name, value in page)
        if not after:  # a new size in the middle of a page would shift the pages
            rest = (pair for pair in pairs if pair[0] != "PageSize")
            pairs = (*_page_size(merged, bounds), *rest)
        return merged, bounds, ListPosition(pairs, after)

    def faults(self, cursor: Json, principal: str) -> Iterator[Fault]:
        """Yield the fault of a cursor that was not issued to this principal."""
        if cursor and isinstance(cursor, str) and self._unpacked(cursor, principal) is None:
            yield _not_ours(cursor)

    def _unpacked(self, cursor: str, principal: str) -> _Packed | None:
        packed = cast("_Packed | None", self.signer.unpack(cursor, principal))
        return packed if packed and packed[0] == self.account_sid else None


def _bounds(arguments: Arguments, tokens: int) -> Bounds:
    default = arguments.operation.parameters["limit"].default
    return Bounds(cast("int", arguments.values.get("limit", default)), tokens)


def _page_size(arguments: Arguments, bounds: Bounds) -> tuple[Pair, ...]:
    """Return the PageSize of the first request: no more calls than fit in the result."""
    asked = cast("int", arguments.values.get("page_size", bounds.page_size))
    return (("PageSize", str(min(asked, bounds.page_size))),)


def _not_ours(cursor: str) -> Fault:
    return Fault(
        path="/cursor",
        expected="next_cursor exactly as this server returned it",
        received=quoted(cursor, 24),
    )


def _differences(arguments: Arguments, values: Mapping[str, Json]) -> Iterator[Fault]:
    for name, value in arguments.values.items():
        if name not in _FREE and values.get(name) != value:
            yield Fault(
                path=f"/{name}",
                expected="no filter, because the cursor includes the filters",
                received=quoted(str(value), 80),
            )
