"""Calls and records → what there is to count of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import phonenumbers

from calls_mcp.errors import PolicyDenied
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import CallSummary, iso_time

_LONGEST = ((10, "under 10 s"), (60, "10 to 59 s"), (300, "1 to 4 min"), (1800, "5 to 29 min"))
_LONGER = "30 min or more"
_ANSWERS = {"declined": "declined", "expired": "lapsed"}
CONFIRMATIONS = ("asked", "accepted", "declined", "lapsed")
"""What can become of a confirmation, the question first."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was counted between two times, epoch seconds.

    `hours` has how many calls of each status were created in each hour, `costs` the cost by
    country and currency.
    """

    since: float
    until: float
    calls: int
    hours: Mapping[str, Mapping[str, int]]
    statuses: tuple[str, ...]
    durations: Mapping[str, int]
    costs: Mapping[tuple[str, str], Decimal]
    confirmations: Mapping[str, int]
    denials: Mapping[str, int]


def count(
    calls: Iterable[CallSummary],
    records: Iterable[Mapping[str, Json]],
    since: float,
    until: float,
    patience: float,
) -> Figures:
    """The figures of these calls and records, of which only those in time count.

    The operator has `patience` seconds to decide.
    """
    beginning = iso_time(since)
    timely = [call for call in calls if (call.created_at or "") >= beginning]
    told = [record for record in records if str(record.get("time", "")) >= beginning]
    hours: dict[str, Counter[str]] = {hour: Counter() for hour in _hours(since, until)}
    durations = Counter({label: 0 for _, label in _LONGEST} | {_LONGER: 0})
    costs: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for call in timely:
        hours.setdefault((call.created_at or "")[:13], Counter())[call.status or "?"] += 1
        if call.duration_seconds is not None and call.live is False:
            durations[_length(call.duration_seconds)] += 1
        if call.cost:
            costs[_country(call.to or ""), call.currency or ""] += Decimal(call.cost)
    statuses = sorted({status for hour in hours.values() for status in hour})
    dear = sorted(costs.items(), key=lambda item: -item[1])
    return Figures(
        since=since,
        until=until,
        calls=len(timely),
        hours=hours,
        statuses=tuple(statuses),
        durations=durations,
        costs=dict(dear),
        confirmations=_confirmations([*_standing(told)], iso_time(until - patience)),
        denials=_denials(told),
    )


def _standing(records: Sequence[Mapping[str, Json]]) -> Iterator[Mapping[str, Json]]:
    """The records without decisions that turned out not to count."""
    void = Counter(_who(record) for record in records if record.get("decision") == "void")
    for record in records:
        if record.get("decision") in ("approved", "declined") and void[_who(record)]:
            void[_who(record)] -= 1
        elif record.get("decision") != "void":
            yield record


def _who(record: Mapping[str, Json]) -> tuple[Json, Json]:
    return record.get("approval_id"), record.get("decided_by")


def _confirmations(records: Iterable[Mapping[str, Json]], overdue: str) -> dict[str, int]:
    """Each confirmation once, though the operator's answer and the agent's return are two records.

    One that was approved in the console and never came back was accepted all the same; one that
    the operator was asked for before `overdue` has lapsed if nothing else is told of it.
    """
    found: dict[str, set[str]] = {name: set() for name in CONFIRMATIONS}
    late: set[str] = set()
    for record in records:
        name = str(record.get("approval_id") or record.get("id"))
        decision = str(record.get("decision"))
        if decision == "asked":
            found["asked"].add(name)
            if record.get("approval_id") and str(record.get("time")) < overdue:
                late.add(name)
        elif decision in _ANSWERS:
            found[_ANSWERS[decision]].add(name)
        elif decision == "approved" or (
            decision == "allowed" and record.get("confirmed_by") != "none"
        ):
            found["accepted"].add(name)
    found["lapsed"] |= late - found["accepted"] - found["declined"]
    return {name: len(names) for name, names in found.items()}


def _denials(records: Iterable[Mapping[str, Json]]) -> dict[str, int]:
    rules = Counter(
        str(record.get("rule") or "unknown")
        for record in records
        if record.get("decision") == "denied" and record.get("error_kind") == PolicyDenied.kind
    )
    return dict(rules.most_common())


def _hours(since: float, until: float) -> Iterable[str]:
    hour = datetime.fromtimestamp(since, UTC).replace(minute=0, second=0, microsecond=0)
    while hour.timestamp() <= until:
        yield hour.strftime("%Y-%m-%dT%H")
        hour += timedelta(hours=1)


def _length(seconds: int) -> str:
    return next((label for most, label in _LONGEST if seconds < most), _LONGER)


def _country(number: str) -> str:
    """The country of a number, in two letters."""
    try:
        region = phonenumbers.region_code_for_number(phonenumbers.parse(number))
    except phonenumbers.NumberParseException:
        return "not a number"
    return region or "unknown"
