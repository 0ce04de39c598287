"""Statistics about calls and decisions."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median

from calls_mcp.errors import PolicyDenied
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import CallSummary, iso_time
from calls_mcp.tools.phone_number import country

_DURATIONS = ((10, "under 10 s"), (60, "10 to 59 s"), (300, "1 to 4 min"), (1800, "5 to 29 min"))
_LONGER = "30 min or more"
_APPROVALS = ("approved", "denied", "expired", "pending")
_DAILY = 2 * 86_400  # seconds; longer ranges are counted by day
_CONFIRMATIONS = ("requested", "accepted", "declined", "expired")


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts between two times, which are in epoch seconds.

    Attributes:
        hours: The number of calls by the hour of their creation (`2026-01-31T22`) and status, or by
            its day (`2026-01-31`) if the times are more than two days apart.
        costs: The costs by country and currency, highest first.
        confirmations: The number requested, accepted, declined and expired.
        approvals: What became of the approval requests: approved, denied, expired or pending.
        median_decision: The median of the seconds from a request to its decision, None without one.
        denials: The number of changes denied by each rule of the policy, highest first.
    """

    since: float
    until: float
    calls: int
    hours: Mapping[str, Mapping[str, int]]
    durations: Mapping[str, int]
    costs: Mapping[tuple[str, str], Decimal]
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


def count(
    calls: Iterable[CallSummary],
    records: Iterable[Mapping[str, Json]],
    since: float,
    until: float,
    operator_ttl: float,
) -> Statistics:
    """Return the statistics of the calls and audit records since `since`.

    An approval request expires after `operator_ttl` seconds.
    """
    beginning = iso_time(since)
    calls = [call for call in calls if (call.created_at or "") >= beginning]
    records = [record for record in records if str(record.get("time", "")) >= beginning]
    valid, expired_before = [*_without_void(records)], iso_time(until - operator_ttl)
    approvals, median_decision = _count_approvals(valid, expired_before)
    return Statistics(
        since=since,
        until=until,
        calls=len(calls),
        hours=_count_hours(calls, since, until),
        durations=_count_durations(calls),
        costs=_sum_costs(calls),
        confirmations=_count_confirmations(valid, expired_before),
        approvals=approvals,
        median_decision=median_decision,
        denials=_count_denials(records),
    )


def _count_hours(
    calls: Iterable[CallSummary], since: float, until: float
) -> Mapping[str, Mapping[str, int]]:
    is_daily = until - since > _DAILY
    start = datetime.fromtimestamp(since, UTC).replace(minute=0, second=0, microsecond=0)
    bucket = start.replace(hour=0) if is_daily else start
    length, width = (timedelta(days=1), 10) if is_daily else (timedelta(hours=1), 13)
    hours: dict[str, Counter[str]] = {}
    while bucket.timestamp() <= until:
        hours[bucket.isoformat()[:width]] = Counter()
        bucket += length
    for call in calls:
        hours.setdefault((call.created_at or "")[:width], Counter())[call.status or "?"] += 1
    return hours


def _count_durations(calls: Iterable[CallSummary]) -> Mapping[str, int]:
    counts = dict.fromkeys([*(label for _, label in _DURATIONS), _LONGER], 0)
    for call in calls:
        if (seconds := call.duration_seconds) is not None and call.live is False:
            label = next((label for end, label in _DURATIONS if seconds < end), _LONGER)
            counts[label] += 1
    return counts


def _sum_costs(calls: Iterable[CallSummary]) -> Mapping[tuple[str, str], Decimal]:
    costs: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for call in calls:
        if call.cost:
            costs[country(call.to or "") or "unknown", call.currency or ""] += Decimal(call.cost)
    return dict(sorted(costs.items(), key=lambda item: -item[1]))


def _without_void(records: Sequence[Mapping[str, Json]]) -> Iterator[Mapping[str, Json]]:
    """Yield the records, newest first, without decisions that came too late."""

    def key(record: Mapping[str, Json]) -> tuple[Json, Json]:
        return record.get("approval_id"), record.get("decided_by")

    void = Counter(key(record) for record in records if record.get("decision") == "void")
    for record in records:
        if record.get("decision") in ("approved", "declined") and void[key(record)]:
            void[key(record)] -= 1
        elif record.get("decision") != "void":
            yield record


def _count_confirmations(
    records: Iterable[Mapping[str, Json]], expired_before: str
) -> Mapping[str, int]:
    """Count each confirmation once, even though a decision and the agent's retry are two records.

    A request that an operator approved is accepted even if the agent never retried. An undecided
    approval request from before `expired_before` is expired.
    """
    found: dict[str, set[str]] = {name: set() for name in _CONFIRMATIONS}
    expired: set[str] = set()
    for record in records:
        identifier = str(record.get("approval_id") or record.get("id"))
        decision = str(record.get("decision"))
        if decision == "asked":
            found["requested"].add(identifier)
            if record.get("approval_id") and str(record.get("time")) < expired_before:
                expired.add(identifier)
        elif decision == "declined":
            found["declined"].add(identifier)
        elif decision in ("expired", "withdrawn"):
            found["expired"].add(identifier)
        elif decision == "approved" or (
            decision == "allowed" and record.get("confirmed_by") != "none"
        ):
            found["accepted"].add(identifier)
    found["expired"] |= expired - found["accepted"] - found["declined"]
    return {name: len(identifiers) for name, identifiers in found.items()}


def _count_approvals(
    records: Iterable[Mapping[str, Json]], expired_before: str
) -> tuple[Mapping[str, int], float | None]:
    """Count what became of each approval request, and return the median time to decide."""
    asked: dict[str, str] = {}
    ended: dict[str, tuple[str, str]] = {}
    names = {"approved": "approved", "declined": "denied"}
    names |= dict.fromkeys(("expired", "withdrawn"), "expired")
    for record in records:
        identifier, decision = str(record.get("approval_id") or ""), str(record.get("decision"))
        if identifier and decision == "asked":
            asked[identifier] = str(record.get("time"))
        elif identifier and decision in names:
            ended[identifier] = names[decision], str(record.get("time"))
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


def _count_denials(records: Iterable[Mapping[str, Json]]) -> Mapping[str, int]:
    rules = Counter(
        str(record.get("rule") or "unknown")
        for record in records
        if record.get("decision") == "denied" and record.get("error_kind") == PolicyDenied.kind
    )
    return dict(rules.most_common())
