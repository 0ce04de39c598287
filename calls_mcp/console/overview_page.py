"""Overview: statistics of some days in the reader's time zone, as charts and tables."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import cast

import anyio
import anyio.to_thread
from markupsafe import Markup
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from calls_mcp.audit.search import NOWHERE, AuditReader, Origin
from calls_mcp.console.charts import bars, columns
from calls_mcp.console.context import ConsoleContext, TimedCache
from calls_mcp.console.reader_time import zone_of
from calls_mcp.console.recent_calls import MAX_CALLS, RecentCalls
from calls_mcp.console.statistics import DecisionRecord, Statistics, count
from calls_mcp.console.templating import length_of_time, page, words
from calls_mcp.errors import CallsError
from calls_mcp.tools.call_summary import LIVE, CallSummary
from calls_mcp.tools.humanize import iso_time

_HOUR, _DAY = 3600, 86_400  # seconds
_RANGES = {"today": ("Today", 1), "7d": ("7 days", 7), "30d": ("30 days", 30)}
_MOST_DAYS = 31
_LONGEST = _MOST_DAYS * _DAY
_NO_CALLS = "Calls appear here after an agent places one with create_call."
_CACHED = 60.0  # seconds
_MAX_RECORDS = 20_000
_MAX_BARS = 12
_CENTS = 2  # digits of a cost, at least
_RESULTS = ("Live", "Not completed", "Completed")


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and the same numbers as a table. The first column of `rows` has the labels."""

    title: str
    picture: Markup
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str


@dataclass(frozen=True, slots=True)
class Period:
    """The days of an overview.

    Attributes:
        key: The name of a range, or the first and the last day.
        name: When it is, as part of a sentence.
        since: The midnight at which it begins.
        until: Its end, or now.
    """

    key: str
    name: str
    since: datetime
    until: datetime


class OverviewPage:
    """The page with the statistics, which are at most a minute old."""

    def __init__(self, console: ConsoleContext) -> None:
        self._console = console
        self._calls = RecentCalls(partial(console.invoke, "list_calls"), console.clock)
        self._cache: TimedCache[dict[str, object]] = TimedCache(_CACHED, console.clock)
        self._decisions: Sequence[DecisionRecord] = ()  # of the longest range, newest first
        self._last = 0
        """The number of the newest of them."""
        self._reading = anyio.Lock()
        self._origins: Mapping[str, Origin] = {}
        self.routes = [Route("/overview", self.show)]

    async def preload(self) -> None:
        """Read the newest records and calls, so that the first visit is fast."""
        with suppress(CallsError):  # each visit reports the error
            await self._read_decisions()
        if self._console.runtime:
            await self._read_all_calls()

    async def show(self, request: Request) -> Response:
        """Show the statistics of a range."""
        zone = zone_of(request)
        now = datetime.fromtimestamp(self._console.clock(), zone)
        period = _period(request.query_params, now)
        key = f"{period.key} {zone.key}"
        values = await self._cache.get(key, partial(self._read, period.since, period.until))
        ranges = [(key, label) for key, (label, _) in _RANGES.items()]
        dates = {"first": (now - timedelta(days=_MOST_DAYS - 1)).date(), "today": now.date()}
        shown = {"period": period, "ranges": ranges, **dates}
        return page(request, "overview.html", {**values, **shown})

    async def _read(self, since: datetime, until: datetime) -> dict[str, object]:
        calls, notes = await self._read_calls(since)
        origins = await self._read_origins(calls)
        decisions = await self._read_decisions()
        if reason := self._console.unavailable.get("audit_database"):
            notes.append(reason)
        is_cut = len(decisions) == _MAX_RECORDS
        if is_cut and decisions[-1].time > iso_time(since.timestamp()):
            notes.append(f"Only the newest {_MAX_RECORDS:,} audit records are counted.")
        operator_ttl = self._console.settings.guard.operator_ttl
        expired_before = iso_time(self._console.clock() - operator_ttl)
        statistics = count(calls, origins, decisions, since, until, expired_before)
        return {
            "statistics": statistics,
            "tiles": [*_tiles(statistics)],
            "charts": [*_charts(statistics)],
            "notes": notes,
        }

    async def _read_decisions(self) -> Sequence[DecisionRecord]:
        """Return the decisions of the longest range, newest first. Only new records are read."""
        database = self._console.audit_database
        beginning = iso_time(self._console.clock() - _LONGEST)
        if database is None:
            return ()
        async with self._reading:
            read = AuditReader(database).decisions
            new = await anyio.to_thread.run_sync(read, beginning, _MAX_RECORDS, self._last)
            if new:
                self._last = cast("int", new[0]["seq"])
            records = [*map(DecisionRecord.parse, new), *self._decisions][:_MAX_RECORDS]
            while records and records[-1].time < beginning:
                records.pop()
            self._decisions = records
            return records

    async def _read_all_calls(self) -> None:
        calls, _ = await self._calls.read_all()
        with suppress(CallsError):  # each visit reports the error
            await self._read_origins(calls)

    async def _read_origins(self, calls: Iterable[CallSummary]) -> Mapping[str, Origin]:
        """Return the origins of all calls with a cost, by SID. Only those of new ones are read."""
        if self._console.audit_database is None:
            return {}
        sids = {call.root_sid for call in calls if call.cost}
        async with self._reading:
            known = self._origins
            found = await self._console.read_origins(sids - known.keys())
            self._origins = {sid: known.get(sid) or found.get(sid, NOWHERE) for sid in sids}
            return self._origins

    async def _read_calls(self, since: datetime) -> tuple[Sequence[CallSummary], list[str]]:
        """Return the newest calls, and notes about calls that are missing."""
        if reason := self._console.unavailable.get("runtime"):
            return (), [reason]
        if self._calls.are_stale:
            self._console.background.start(self._read_all_calls)
        calls, error = await self._calls.read()
        if error:
            return calls, [error.message]
        oldest = calls[-1].created_at or "" if calls else ""
        if len(calls) == MAX_CALLS and oldest > iso_time(since.timestamp()):
            return calls, [f"Only the newest {MAX_CALLS:,} calls are counted."]
        return calls, []


def _period(query: QueryParams, now: datetime) -> Period:
    """Return the days that a query asks for, today by default.

    Raises:
        HTTPException: There is no such range, or a date is invalid (400).
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if "from" in query or "to" in query:
        return _custom_period(query, now, midnight)
    key = query.get("range", "today")
    if key not in _RANGES:
        raise HTTPException(400, f"range must be one of {', '.join(_RANGES)}.")
    name, days = _RANGES[key]
    since = midnight - timedelta(days=days - 1)
    return Period(key, "today" if days == 1 else f"in the last {name}", since, now)


def _custom_period(query: QueryParams, now: datetime, midnight: datetime) -> Period:
    try:
        first, last = (date.fromisoformat(query.get(name, "")) for name in ("from", "to"))
    except ValueError:
        raise HTTPException(400, "from and to must be dates, such as 2026-01-31.") from None
    earliest = midnight.date() - timedelta(days=_MOST_DAYS - 1)
    if not earliest <= first <= last <= midnight.date():
        problem = f"from and to must be in order, and between {earliest} and {midnight.date()}."
        raise HTTPException(400, problem)
    since = datetime.combine(first, time(), now.tzinfo)
    until = min(now, datetime.combine(last, time.max, now.tzinfo))
    return Period(f"{first} {last}", f"from {first} to {last}", since, until)


def _tiles(statistics: Statistics) -> Iterator[tuple[str, str]]:
    costs: defaultdict[str, Decimal] = defaultdict(Decimal)
    for (_, currency), cost in statistics.costs.items():
        costs[currency] += cost
    cost = ", ".join(f"{cost:.2f} {currency}".strip() for currency, cost in costs.items())
    requested, confirmed = (statistics.confirmations[name] for name in ("requested", "confirmed"))
    yield "Calls", f"{statistics.calls:,}"
    rate = statistics.answer_rate
    yield "Answer rate", "None" if rate is None else f"{100 * rate:.0f}%"
    yield "Talk time", _talk_time(statistics.talk_time)
    yield "Cost", cost or "None"
    approvals, median = statistics.approvals, statistics.median_decision
    yield "Approved by an operator", _share(approvals["approved"], sum(approvals.values()))
    yield "Median time to decide", "None" if median is None else length_of_time(median)
    yield "Confirmed by a user", _share(confirmed, requested)
    yield "Refused by policy", f"{sum(statistics.denials.values()):,}"


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}" if whole else "None"


def _talk_time(seconds: int) -> str:
    """Return a length of time; without seconds if it is an hour or more."""
    return length_of_time(seconds if seconds < _HOUR else seconds - seconds % 60)


def _charts(statistics: Statistics) -> Iterator[Chart]:
    yield _calls_chart(statistics)
    yield _bar_chart("Call duration", "Duration", "Calls", statistics.durations, _NO_CALLS)
    yield _bar_chart(
        "Approval requests",
        "Result",
        "Requests",
        _capitalized(statistics.approvals),
        "Requests appear here after an agent asks for a change that needs an operator's approval.",
    )
    yield costs_chart("country", statistics.costs)
    yield costs_chart("requester", statistics.requester_costs)
    yield _bar_chart(
        "Confirmations by users",
        "Result",
        "Confirmations",
        _capitalized(statistics.confirmations),
        "Confirmations appear here after an agent's user is asked to confirm a change.",
    )
    yield _bar_chart(
        "Refusals by rule",
        "Rule",
        "Refusals",
        statistics.denials,
        "Changes that the policy refuses appear here, by rule.",
    )


def _calls_chart(statistics: Statistics) -> Chart:
    statuses, zone = statistics.statuses, statistics.since.tzinfo
    unit = "Day" if statistics.is_daily else "Hour"
    title, periods = f"Calls by {unit.lower()} ({zone})", [*statistics.hours.items()]
    results = [Counter(map(_result, Counter(counts).elements())) for _, counts in periods]
    parts = [(name, [counts[name] for counts in results]) for name in _RESULTS]
    rows = (
        (period.replace("T", " "), *(str(counts.get(status, 0)) for status in statuses))
        for period, counts in statistics.hours.items()
        if any(counts.values())
    )
    labels = [period[8:] if statistics.is_daily else period[11:] for period, _ in periods]
    picture = columns(title, labels, parts)
    head = (f"{unit} ({zone})", *map(words, statuses))
    return Chart(title, picture, head, tuple(rows), _NO_CALLS)


def _result(status: str) -> str:
    if status in LIVE:
        return "Live"
    return "Completed" if status == "completed" else "Not completed"


def costs_chart(group: str, costs: Mapping[tuple[str, str], Decimal]) -> Chart:
    """Return the chart of the costs by group and currency; a credit has no bar."""
    currencies = {currency for _, currency in costs}
    unit = f" {currencies.pop()}" if len(currencies) == 1 else ""
    title = f"Cost by {group}{unit and f' ({unit.strip()})'}"
    named = [
        (f"{name} {currency}".strip().removesuffix(unit), cost)
        for (name, currency), cost in costs.items()
    ]
    charges = [(name, float(cost)) for name, cost in named[:_MAX_BARS] if cost > 0]
    digits = max((-int(cost.as_tuple().exponent) for cost in costs.values()), default=0)
    picture = bars(title, charges, max(digits, _CENTS))
    rows = tuple((name, f"{cost:,.{max(digits, _CENTS)}f}") for name, cost in named)
    empty = "Costs appear here a few minutes after a call has ended."
    head = (group.capitalize() if unit else f"{group.capitalize()} and currency", "Cost")
    return Chart(title, picture, head, rows, empty)


def _bar_chart(title: str, label: str, unit: str, counts: Mapping[str, int], empty: str) -> Chart:
    picture = bars(title, [*islice(counts.items(), _MAX_BARS)])
    rows = tuple((name, f"{number:,}") for name, number in counts.items() if picture)
    return Chart(title, picture, (label, unit), rows, empty)


def _capitalized(counts: Mapping[str, int]) -> Mapping[str, int]:
    return {name.capitalize(): number for name, number in counts.items()}
