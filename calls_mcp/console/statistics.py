"""Statistics about calls and decisions."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import NamedTuple, Self

from calls_mcp.audit.search import Origin
from calls_mcp.errors import PolicyDenied
from calls_mcp.tools.call_summary import FINAL, CallSummary
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.humanize import country, iso_time

_DURATIONS = ((10, "Under 10 s"), (60, "10 to 59 s"), (300, "1 to 4 min"), (1800, "5 to 29 min"))
_LONGER = "30 min or more"
_ELSEWHERE = "Outside calls-mcp"  # placed without this server
_APPROVALS = ("approved", "denied", "expired", "withdrawn", "pending")
_DAILY = timedelta(days=2)  # longer ranges are counted by day
_CONFIRMATIONS = {
    "requested": "asked",
    "confirmed": "allowed",
    "declined": "declined",
    "expired": "expired",
}
"""What became of the confirmations of users, and the decision in the record."""


class DecisionRecord(NamedTuple):
    """The fields of an audit record that are counted, as text, empty if it does not have them."""

    time: str
    approval_id: str
    decision: str
    confirmed_by: str
    decided_by: str
    rule: str
    error_kind: str

    @classmethod
    def parse(cls, record: Mapping[str, Json]) -> Self:
        """Return the fields of a record, which may have been edited."""
        return cls(*(str(record.get(name) or "") for name in cls._fields))


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts between two times in the reader's time zone.

    Attributes:
        hours: The number of calls by the local hour of their creation (`2026-01-31T22`) and status,
            or by its day (`2026-01-31`) if the times are more than two days apart.
        talk_time: The sum of the durations of ended calls, in seconds.
        costs: The costs by country and currency, highest first.
        requester_costs: The costs by requester and currency, highest first.
        confirmations: The number that users were asked for, confirmed, declined and let expire.
        approvals: What became of the approval requests: approved, denied, expired, withdrawn or
            pending.
        median_decision: The median of the seconds from a request to its decision, None without one.
        denials: The number of changes refused by each rule of the policy, highest first.
    """

    since: datetime
    until: datetime
    calls: int
    hours: Mapping[str, Mapping[str, int]]
    durations: Mapping[str, int]
    talk_time: int
    costs: Mapping[tuple[str, str], Decimal]
    requester_costs: Mapping[tuple[str, str], Decimal]
    confirmations: Mapping[str, int]
    approvals: Mapping[str, int]
    median_decision: float | None
    denials: Mapping[str, int]

    @property
    def is_daily(self) -> bool:
        """Whether the calls are counted by day."""
        return self.until - self.since > _DAILY

    @property
    def statuses(self) -> Sequence[str]:
        """All statuses in the counts."""
        return sorted({status for hour in self.hours.values() for status in hour})

    @property
    def answer_rate(self) -> float | None:
        """The share of the ended calls that were answered, from 0 to 1; None if none has ended."""
        totals = sum((Counter(counts) for counts in self.hours.values()), Counter[str]())
        ended = sum(totals[status] for status in FINAL)
        return totals["completed"] / ended if ended else None


def count(
    calls: Iterable[CallSummary],
    origins: Mapping[str, Origin],
    records: Iterable[DecisionRecord],
    since: datetime,
    until: datetime,
    expired_before: str,
) -> Statistics:
    """Return the statistics of the calls and audit records of a period that begins at midnight.

    The costs by requester are those of the calls with `origins`. An undecided approval request from
    before `expired_before` has expired.
    """
    beginning, end = iso_time(since.timestamp()), iso_time(until.timestamp())
    calls = [call for call in calls if beginning <= (call.created_at or "") <= end]
    records = [record for record in records if beginning <= record.time <= end]
    charged = [call for call in calls if call.cost]
    approvals, median_decision = _count_approvals(_without_void(records), expired_before)
    return Statistics(
        since=since,
        until=until,
        calls=len(calls),
        hours=_count_hours(calls, since, until),
        durations=_count_durations(calls),
        talk_time=sum(call.duration_seconds or 0 for call in calls if call.live is False),
        costs=_sum_costs((country(call.to or "") or "Unknown", call) for call in charged),
        requester_costs=_sum_costs(
            (origins[sid].requester or _ELSEWHERE, call)
            for call in charged
            if (sid := call.root_sid) in origins
        ),
        confirmations=_count_confirmations(records),
        approvals=approvals,
        median_decision=median_decision,
        denials=_count_denials(records),
    )


def _count_hours(
    calls: Iterable[CallSummary], since: datetime, until: datetime
) -> Mapping[str, Mapping[str, int]]:
    is_daily = until - since > _DAILY
    length, width = (timedelta(days=1), 10) if is_daily else (timedelta(hours=1), 13)
    bucket, end = since.replace(tzinfo=None), until.replace(tzinfo=None)
    starts, hours = list[str](), list[tuple[str, Counter[str]]]()
    while bucket <= end:
        starts.append(iso_time(bucket.replace(tzinfo=since.tzinfo).timestamp()))
        hours.append((bucket.isoformat()[:width], Counter()))
        bucket += length
    for call in calls:
        hours[bisect_right(starts, call.created_at or "") - 1][1][call.status or "?"] += 1
    return dict(hours)


def _count_durations(calls: Iterable[CallSummary]) -> Mapping[str, int]:
    counts = dict.fromkeys([*(label for _, label in _DURATIONS), _LONGER], 0)
    for call in calls:
        if (seconds := call.duration_seconds) is not None and call.live is False:
            label = next((label for end, label in _DURATIONS if seconds < end), _LONGER)
            counts[label] += 1
    return counts


def _sum_costs(
    calls: Iterable[tuple[str, CallSummary]],
) -> Mapping[tuple[str, str], Decimal]:
    """Return the sum of the calls' costs by group and currency, highest first."""
    costs: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for group, call in calls:
        costs[group, call.currency or ""] += Decimal(call.cost or 0)
    return dict(sorted(costs.items(), key=lambda item: -item[1]))


def _without_void(records: Sequence[DecisionRecord]) -> Iterable[DecisionRecord]:
    """Return the records, newest first, without decisions that came too late."""

    def key(record: DecisionRecord) -> tuple[str, str]:
        return record.approval_id, record.decided_by

    void = Counter(key(record) for record in records if record.decision == "void")
    if not void:
        return records
    kept = list[DecisionRecord]()
    for record in records:
        if record.decision in ("approved", "denied") and void[key(record)]:
            void[key(record)] -= 1
        elif record.decision != "void":
            kept.append(record)
    return kept


def _count_confirmations(records: Iterable[DecisionRecord]) -> Mapping[str, int]:
    found = Counter(
        record.decision
        for record in records
        if not record.approval_id
        and (record.decision != "allowed" or record.confirmed_by != "none")
    )
    return {name: found[decision] for name, decision in _CONFIRMATIONS.items()}


def _count_approvals(
    records: Iterable[DecisionRecord], expired_before: str
) -> tuple[Mapping[str, int], float | None]:
    """Count what became of each approval request, and return the median time to decide."""
    asked: dict[str, str] = {}
    ended: dict[str, tuple[str, str]] = {}
    for record in records:
        identifier, decision = record.approval_id, record.decision
        if identifier and decision == "asked":
            asked[identifier] = record.time
        elif identifier and decision in _APPROVALS:
            ended[identifier] = decision, record.time
    counts: dict[str, int] = dict.fromkeys(_APPROVALS, 0)
    seconds = list[float]()
    for identifier, time in asked.items():
        lapsed = "expired" if time < expired_before else "pending"
        name, decided = ended.get(identifier, (lapsed, ""))
        counts[name] += 1
        if name in ("approved", "denied"):
            between = datetime.fromisoformat(decided) - datetime.fromisoformat(time)
            seconds.append(between.total_seconds())
    return counts, median(seconds) if seconds else None


def _count_denials(records: Iterable[DecisionRecord]) -> Mapping[str, int]:
    rules = Counter(
        record.rule or "Unknown"
        for record in records
        if record.decision == "refused" and record.error_kind == PolicyDenied.kind
    )
    return dict(rules.most_common())
