"""Overview: statistics of the last 24 hours, 7 days or 30 days, as charts and tables."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import cast

import anyio
import anyio.to_thread
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from calls_mcp.audit.search import AuditReader
from calls_mcp.console.charts import bars, columns
from calls_mcp.console.context import ConsoleContext, TimedCache
from calls_mcp.console.statistics import Statistics, count
from calls_mcp.console.templating import length_of_time, page
from calls_mcp.errors import CallsError
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import CallSummary, iso_time

_DAY = 86_400  # seconds
_RANGES = {"24h": ("24 h", 1), "7d": ("7 days", 7), "30d": ("30 days", 30)}
_LONGEST = 30 * _DAY
_NO_CALLS = "Calls appear here after an agent places one with create_call."
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
    empty: str


class OverviewPage:
    """The page with the statistics, which are at most a minute old."""

    def __init__(self, console: ConsoleContext) -> None:
        self._console = console
        self._cache: TimedCache[dict[str, object]] = TimedCache(_CACHED, console.clock)
        self._decisions: list[Mapping[str, Json]] = []  # of the last 30 days, the newest first
        self._reading = anyio.Lock()
        self.routes = [Route("/overview", self.show)]

    async def preload(self) -> None:
        """Read the newest records, so that the first visit is fast."""
        with suppress(CallsError):  # each visit reports the error
            await self._read_decisions()

    async def show(self, request: Request) -> Response:
        """Show the statistics of a range."""
        wanted = request.query_params.get("range", "24h")
        if wanted not in _RANGES:
            raise HTTPException(400, f"range must be one of {', '.join(_RANGES)}.")
        name, days = _RANGES[wanted]
        values = await self._cache.get(wanted, partial(self._read, days * _DAY))
        ranges = [(key, label) for key, (label, _) in _RANGES.items()]
        chosen = {"range": name, "chosen": wanted, "ranges": ranges}
        return page(request, "overview.html", {**values, **chosen})

    async def _read(self, seconds: int) -> dict[str, object]:
        until = self._console.clock()
        since = until - seconds
        calls, notes = await self._read_calls(since)
        decisions = await self._read_decisions()
        if reason := self._console.unavailable.get("audit_database"):
            notes.append(reason)
        if len(decisions) == _MAX_RECORDS and str(decisions[-1]["time"]) > iso_time(since):
            notes.append(f"Only the newest {_MAX_RECORDS:,} audit records are counted.")
        operator_ttl = self._console.settings.guard.operator_ttl
        statistics = count(calls, decisions, since, until, operator_ttl)
        return {
            "statistics": statistics,
            "tiles": [*_tiles(statistics)],
            "charts": [*_charts(statistics)],
            "notes": notes,
        }

    async def _read_decisions(self) -> list[Mapping[str, Json]]:
        """Return the decisions of the longest range, newest first. Only new records are read."""
        database = self._console.audit_database
        beginning = iso_time(self._console.clock() - _LONGEST)
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
        size: Mapping[str, Json] = {"limit": 1000, "page_size": 1000}
        arguments = size
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
            arguments = {**size, "cursor": outcome.next_cursor}
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
    approvals, median = statistics.approvals, statistics.median_decision
    yield "Approved by an operator", f"{approvals['approved']:,} of {sum(approvals.values()):,}"
    yield "Median time to decide", "none" if median is None else length_of_time(median)
    yield "Confirmations accepted", f"{accepted:,} of {requested:,}"
    yield "Denied by policy", f"{sum(statistics.denials.values()):,}"


def _charts(statistics: Statistics) -> Iterator[Chart]:
    yield _calls_chart(statistics)
    yield _bar_chart("Call duration", "Duration", "Calls", statistics.durations, _NO_CALLS)
    yield costs_chart(statistics.costs)
    yield _bar_chart(
        "Approval requests",
        "Result",
        "Requests",
        statistics.approvals,
        "Requests appear here after an agent asks for a change that needs an operator's approval.",
    )
    yield _bar_chart(
        "Confirmations",
        "Result",
        "Confirmations",
        statistics.confirmations,
        "Confirmations of users and operators appear here.",
    )
    yield _bar_chart(
        "Denials by rule",
        "Rule",
        "Denials",
        statistics.denials,
        "Changes that the policy denies appear here, by rule.",
    )


def _calls_chart(statistics: Statistics) -> Chart:
    is_daily, statuses = statistics.is_daily, statistics.statuses
    title, unit = ("Calls by day (UTC)", "Day") if is_daily else ("Calls by hour (UTC)", "Hour")
    # With 24 hours, the first hour is incomplete; the table has it.
    periods = [*statistics.hours.items()][0 if is_daily else 1 :]
    results = [Counter(map(_result, Counter(counts).elements())) for _, counts in periods]
    parts = [(name, [counts[name] for counts in results]) for name in _RESULTS]
    rows = (
        (period.replace("T", " "), *(str(counts.get(status, 0)) for status in statuses))
        for period, counts in statistics.hours.items()
        if any(counts.values())
    )
    labels = [period[8:] if is_daily else period[11:] for period, _ in periods]
    picture = columns(title, labels, parts)
    return Chart(title, picture, (f"{unit} (UTC)", *statuses), tuple(rows), _NO_CALLS)


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
    empty = "Costs appear here some minutes after a call has ended."
    return Chart(title, picture, ("Country and currency", "Cost"), rows, empty)


def _bar_chart(title: str, label: str, unit: str, counts: Mapping[str, int], empty: str) -> Chart:
    picture = bars(title, [*islice(counts.items(), _MAX_BARS)])
    rows = tuple((name, str(number)) for name, number in counts.items())
    return Chart(title, picture, (label, unit), rows, empty)
