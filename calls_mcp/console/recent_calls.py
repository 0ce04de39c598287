"""The newest calls, of which only those that may have changed are read again."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import anyio

from calls_mcp.tools.call_summary import CallSummary
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.humanize import iso_time
from calls_mcp.tools.outcome import Failure, Outcome

MAX_CALLS = 5_000
_FEW, _MANY = 50, 1000  # calls of a page
_HOUR, _DAY = 3600, 86_400  # seconds
_MAX_AGE = 31 * _DAY


class RecentCalls:
    """Reads the newest calls of a month, at most `MAX_CALLS`.

    `list_calls` invokes the tool of this name. `clock` returns the time in epoch seconds.
    """

    def __init__(
        self,
        list_calls: Callable[[Mapping[str, Json]], Awaitable[Outcome]],
        clock: Callable[[], float],
    ) -> None:
        self._list_calls = list_calls
        self._clock = clock
        self._known: Sequence[CallSummary] = ()
        self._read_all_at = 0.0
        self._reading = anyio.Lock()

    @property
    def are_stale(self) -> bool:
        """Whether to `read_all` again, for deleted calls and late costs."""
        return self._clock() >= self._read_all_at + _HOUR

    async def read(self) -> tuple[Sequence[CallSummary], Failure | None]:
        """Return the calls, newest first, and the error if they are not up to date.

        Only the newest are read, back to the oldest one that may have changed.
        """
        if not self._read_all_at:
            return await self.read_all()
        return await self._read(self._known)

    async def read_all(self) -> tuple[Sequence[CallSummary], Failure | None]:
        """Read all calls again, unless that was done in the last hour, and return them."""
        begun = self._clock()
        async with self._reading:
            if self._read_all_at and begun < self._read_all_at + _HOUR:
                return self._known, None
            calls, error = await self._read(())
            self._read_all_at = self._read_all_at if error else begun
            return calls, error

    async def _read(
        self, known: Sequence[CallSummary]
    ) -> tuple[Sequence[CallSummary], Failure | None]:
        now = self._clock()
        positions = {call.sid: position for position, call in enumerate(known)}
        enough, beginning = max(_changing(known, now), default=0), iso_time(now - _MAX_AGE)
        found: dict[str, CallSummary] = {}
        arguments = _page(_FEW if known else _MANY)
        while True:
            outcome = await self._list_calls(arguments)
            if outcome.error:
                return self._known, outcome.error
            page = outcome.calls or ()
            found |= {call.sid: call for call in page}
            position = positions.get(page[-1].sid, -1) if page else -1
            if position >= enough:
                found |= {call.sid: call for call in known[position + 1 :]}
                break
            is_old = not page or (page[-1].created_at or "") < beginning
            if is_old or not outcome.next_cursor or len(found) >= MAX_CALLS:
                break
            if arguments == _page(_FEW):  # the cursor would keep the size
                arguments, found = _page(_MANY), {}
            else:
                arguments = {**_page(_MANY), "cursor": outcome.next_cursor}
        self._known = [*found.values()][:MAX_CALLS]
        return self._known, None


def _page(size: int) -> Mapping[str, Json]:
    return {"limit": size}


def _changing(calls: Sequence[CallSummary], now: float) -> Iterator[int]:
    """Yield the positions of the calls that are live, or whose cost is not known yet."""
    hour_ago, days_ago = iso_time(now - _HOUR), iso_time(now - 2 * _DAY)
    for position, call in enumerate(calls):
        created = call.created_at or ""
        if call.live is not False:
            if created > days_ago:
                yield position
        elif not call.cost and call.duration_seconds and (call.ended_at or created) > hour_ago:
            yield position
