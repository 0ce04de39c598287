"""Overview: the last day in figures, each chart with its numbers as a table."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import cast

import anyio
import anyio.to_thread
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from calls_mcp.audit.search import AuditReader
from calls_mcp.console.charts import bars, columns
from calls_mcp.console.context import READER, Fresh, House
from calls_mcp.console.rendering import page
from calls_mcp.console.statistics import Figures, count
from calls_mcp.errors import CallsError
from calls_mcp.tools.catalog import Json, load_operations
from calls_mcp.tools.outcome import CallSummary, iso_time

_DAY = 86_400  # seconds
_GOOD_FOR = 60.0  # seconds
_PAGES = 5
_MOST_RECORDS = 20_000
_MOST_ROWS = 12
_LIVE = ("queued", "initiated", "ringing", "in-progress")
_OUTCOMES = ("live", "not completed", "completed")
_COUNTED = (
    "seq",
    "time",
    "id",
    "approval_id",
    "decision",
    "confirmed_by",
    "decided_by",
    "rule",
    "error_kind",
)


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture, and its numbers: `rows` below `head`, whose first column names each row."""

    title: str
    picture: Markup
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class _View:
    figures: Figures
    tiles: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]
    notes: tuple[str, ...]


class _Recent:
    """The decisions of a day, of which each look at a log reads only those that are new."""

    def __init__(self) -> None:
        self._known: list[Mapping[str, Json]] = []

    def since(self, path: Path, beginning: str) -> list[Mapping[str, Json]]:
        """Return what was decided from then on, the newest first.

        Raises:
            ConfigurationError: The log can't be read.
        """
        last = cast("int", self._known[0]["seq"]) if self._known else 0
        fresh = AuditReader(path).decisions(beginning, _MOST_RECORDS, last)
        counted = [{name: record.get(name) for name in _COUNTED} for record in fresh]
        known = [record for record in self._known if str(record["time"]) >= beginning]
        self._known = [*counted, *known][:_MOST_RECORDS]
        return self._known


class Overview:
    """The page of figures."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._views: Fresh[_View] = Fresh(_GOOD_FOR, house.clock)
        self._recent = _Recent()
        self._reading = anyio.Lock()

    async def prepare(self) -> None:
        """Read a day's records before anybody waits for it."""
        with suppress(CallsError):  # whoever looks is told
            await self._recorded(self._house.clock() - _DAY)

    async def all(self, request: Request) -> Response:
        """The figures, at most a minute old."""
        view = await self._views.get("", self._made)
        return page(request, "overview.html", {"view": view})

    async def _made(self) -> _View:
        until = self._house.clock()
        since = until - _DAY
        calls, notes = await self._called()
        records = await self._recorded(since)
        if lacking := self._house.lacking.get("record"):
            notes.append(lacking)
        if len(records) == _MOST_RECORDS:
            notes.append(f"Only the newest {_MOST_RECORDS:,} records are counted.")
        patience = self._house.settings.guard.operator_ttl
        figures = count(calls, records, since, until, patience)
        return _View(figures, tuple(_tiles(figures)), tuple(_charts(figures)), tuple(notes))

    async def _recorded(self, since: float) -> list[Mapping[str, Json]]:
        path = self._house.record
        if path is None or not path.exists():
            return []
        async with self._reading:
            return await anyio.to_thread.run_sync(self._recent.since, path, iso_time(since))

    async def _called(self) -> tuple[list[CallSummary], list[str]]:
        """The newest calls, and what is to be said about them."""
        runtime, calls = self._house.runtime, list[CallSummary]()
        if runtime is None:
            return calls, [self._house.lacking["runtime"]]
        operation, arguments = load_operations()["list_calls"], dict[str, Json](limit=1000)
        since = iso_time(self._house.clock() - _DAY)
        for _ in range(_PAGES):
            async with runtime.invoker() as invoker:
                outcome = await invoker.invoke(operation, arguments, READER)
            if outcome.error:
                return calls, [outcome.error.message]
            found = outcome.calls or ()
            calls += found
            if not found or not outcome.next_cursor or (found[-1].created_at or "") < since:
                return calls, []
            arguments = {"cursor": outcome.next_cursor}
        return calls, [f"Only the newest {len(calls):,} calls are counted."]


def _tiles(figures: Figures) -> Iterator[tuple[str, str]]:
    """What matters most, at a glance."""
    completed = sum(counts.get("completed", 0) for counts in figures.hours.values())
    spent: defaultdict[str, Decimal] = defaultdict(Decimal)
    for (_, unit), cost in figures.costs.items():
        spent[unit] += cost
    asked, accepted = (figures.confirmations[name] for name in ("asked", "accepted"))
    yield "Calls", f"{figures.calls:,}"
    yield "Completed", f"{completed:,}"
    yield "Cost", ", ".join(f"{cost:.2f} {unit}".strip() for unit, cost in spent.items()) or "none"
    yield "Confirmations accepted", f"{accepted:,} of {asked:,}"
    yield "Denied by a rule", f"{sum(figures.denials.values()):,}"


def _outcome(status: str) -> str:
    if status == "completed":
        return status
    return "live" if status in _LIVE else "not completed"


def _charts(figures: Figures) -> Iterator[Chart]:
    title = "Calls by hour and outcome"
    hours = [*figures.hours.items()][1:]  # the first is cut off
    outcomes = [Counter(map(_outcome, Counter(counts).elements())) for _, counts in hours]
    parts = [(name, [counts[name] for counts in outcomes]) for name in _OUTCOMES]
    yield Chart(
        title,
        columns(title, [hour[11:] for hour, _ in hours], parts),
        ("Hour (UTC)", *figures.statuses),
        tuple(
            (
                hour.replace("T", " "),
                *(str(counts.get(s, 0)) for s in figures.statuses),
            )
            for hour, counts in figures.hours.items()
            if any(counts.values())
        ),
    )
    yield _simple("How long calls lasted", "Duration", "Calls", figures.durations)
    title = "Cost by country"
    costs = [(f"{place} {unit}".strip(), cost) for (place, unit), cost in figures.costs.items()]
    yield Chart(
        title,
        bars(title, [(name, float(cost)) for name, cost in costs[:_MOST_ROWS]]),
        ("Country and currency", "Cost"),
        tuple((name, f"{cost:f}") for name, cost in costs),
    )
    yield _simple("Confirmations", "What became of them", "Number", figures.confirmations)
    yield _simple("Denials by rule", "Rule", "Denials", figures.denials)


def _simple(title: str, name: str, number: str, counts: Mapping[str, int]) -> Chart:
    picture = bars(title, [*islice(counts.items(), _MOST_ROWS)])
    return Chart(title, picture, (name, number), tuple((k, str(n)) for k, n in counts.items()))
