"""Overview: statistics of the last 24 hours, as charts and tables."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import cast

import anyio
import anyio.to_thread
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from calls_mcp.audit.search import AuditReader
from calls_mcp.console.charts import bars, columns
from calls_mcp.console.context import ConsoleContext, TimedCache
from calls_mcp.console.statistics import Statistics, count
from calls_mcp.console.templating import page
from calls_mcp.errors import CallsError
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import CallSummary, iso_time

_DAY = 86_400  # seconds
_CACHED = 60.0  # seconds
_MAX_LISTS = 5
_MAX_RECORDS = 20_000
_MAX_BARS = 12
_LIVE = ("queued", "initiated", "ringing", "in-progress")
_RESULTS = ("live", "not completed", "completed")
_COUNTED_FIELDS = (
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
    """A chart and the same numbers as a table. The first column of `rows` has the labels."""

    title: str
    picture: Markup
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class OverviewPage:
    """The page with the statistics, which are at most a minute old."""

    def __init__(self, console: ConsoleContext) -> None:
        self._console = console
        self._cache: TimedCache[dict[str, object]] = TimedCache(_CACHED, console.clock)
        self._decisions: list[Mapping[str, Json]] = []  # of the last day, the newest first
        self._reading = anyio.Lock()
        self.routes = [Route("/overview", self.show)]

    async def preload(self) -> None:
        """Read the records of the last 24 hours, so that the first visit is fast."""
        with suppress(CallsError):  # each visit reports the error
            await self._read_decisions(self._console.clock() - _DAY)

    async def show(self, request: Request) -> Response:
        """Show the statistics."""
        return page(request, "overview.html", await self._cache.get("", self._read))

    async def _read(self) -> dict[str, object]:
        until = self._console.clock()
        since = until - _DAY
        calls, notes = await self._read_calls(since)
        decisions = await self._read_decisions(since)
        if reason := self._console.unavailable.get("audit_database"):
            notes.append(reason)
        if len(decisions) == _MAX_RECORDS:
            notes.append(f"Only the newest {_MAX_RECORDS:,} audit records are counted.")
        operator_ttl = self._console.settings.guard.operator_ttl
        statistics = count(calls, decisions, since, until, operator_ttl)
        return {
            "statistics": statistics,
            "tiles": [*_tiles(statistics)],
            "charts": [*_charts(statistics)],
            "notes": notes,
        }

    async def _read_decisions(self, since: float) -> list[Mapping[str, Json]]:
        """Return the decisions since then, newest first. Only new records are read."""
        database, beginning = self._console.audit_database, iso_time(since)
        if database is None:
            return []
        async with self._reading:
            known = self._decisions
            last = cast("int", known[0]["seq"]) if known else 0
            read = AuditReader(database).decisions
            new = await anyio.to_thread.run_sync(read, beginning, _MAX_RECORDS, last)
            counted = [{name: record.get(name) for name in _COUNTED_FIELDS} for record in new]
            recent = [record for record in known if str(record["time"]) >= beginning]
            self._decisions = [*counted, *recent][:_MAX_RECORDS]
            return self._decisions

    async def _read_calls(self, since: float) -> tuple[list[CallSummary], list[str]]:
        """Return the newest calls, and notes about calls that are missing."""
        calls = list[CallSummary]()
        if reason := self._console.unavailable.get("runtime"):
            return calls, [reason]
        arguments: Mapping[str, Json] = {"limit": 1000}
        for _ in range(_MAX_LISTS):
            outcome = await self._console.invoke("list_calls", arguments)
            if outcome.error:
                return calls, [outcome.error.message]
            found = outcome.calls or ()
            calls += found
            if not (
                found and outcome.next_cursor and (found[-1].created_at or "") >= iso_time(since)
            ):
                return calls, []
            arguments = {"cursor": outcome.next_cursor}
        return calls, [f"Only the newest {len(calls):,} calls are counted."]


def _tiles(statistics: Statistics) -> Iterator[tuple[str, str]]:
    completed = sum(counts.get("completed", 0) for counts in statistics.hours.values())
    costs: defaultdict[str, Decimal] = defaultdict(Decimal)
    for (_, currency), cost in statistics.costs.items():
        costs[currency] += cost
    cost = ", ".join(f"{cost:.2f} {currency}".strip() for currency, cost in costs.items())
    requested, accepted = (statistics.confirmations[name] for name in ("requested", "accepted"))
    yield "Calls", f"{statistics.calls:,}"
    yield "Completed", f"{completed:,}"
    yield "Cost", cost or "none"
    yield "Confirmations accepted", f"{accepted:,} of {requested:,}"
    yield "Denied by policy", f"{sum(statistics.denials.values()):,}"


def _charts(statistics: Statistics) -> Iterator[Chart]:
    yield _calls_chart(statistics)
    yield _bar_chart("Call duration", "Duration", "Calls", statistics.durations)
    yield costs_chart(statistics.costs)
    confirmations = statistics.confirmations
    yield _bar_chart("Confirmations", "Result", "Confirmations", confirmations)
    yield _bar_chart("Denials by rule", "Rule", "Denials", statistics.denials)


def _calls_chart(statistics: Statistics) -> Chart:
    title, statuses = "Calls by hour (UTC)", statistics.statuses
    hours = [*statistics.hours.items()][1:]  # the first hour is incomplete
    results = [Counter(map(_result, Counter(counts).elements())) for _, counts in hours]
    parts = [(name, [counts[name] for counts in results]) for name in _RESULTS]
    rows = (
        (hour.replace("T", " "), *(str(counts.get(status, 0)) for status in statuses))
        for hour, counts in statistics.hours.items()
        if any(counts.values())
    )
    picture = columns(title, [hour[11:] for hour, _ in hours], parts)
    return Chart(title, picture, ("Hour (UTC)", *statuses), tuple(rows))


def _result(status: str) -> str:
    if status == "completed":
        return status
    return "live" if status in _LIVE else "not completed"


def costs_chart(costs: Mapping[tuple[str, str], Decimal]) -> Chart:
    """Return the chart of the costs by country and currency; a credit has no bar."""
    title = "Cost by country"
    named = [(f"{country} {currency}".strip(), cost) for (country, currency), cost in costs.items()]
    charges = [(name, float(cost)) for name, cost in named[:_MAX_BARS] if cost > 0]
    picture = bars(title, charges)
    rows = tuple((name, f"{cost:f}") for name, cost in named)
    return Chart(title, picture, ("Country and currency", "Cost"), rows)


def _bar_chart(title: str, label: str, unit: str, counts: Mapping[str, int]) -> Chart:
    picture = bars(title, [*islice(counts.items(), _MAX_BARS)])
    rows = tuple((name, str(number)) for name, number in counts.items())
    return Chart(title, picture, (label, unit), rows)
