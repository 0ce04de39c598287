"""Check calls against the calling hours, in the local time of the called parties."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from calls_mcp.guard.local_time import LocalTimes, local_times
from calls_mcp.guard.policy import CountryHours, Hours, Requirement, numbers_of, strictest
from calls_mcp.guard.twiml_words import shown
from calls_mcp.tools.wording import about

_ASK = "Tell your user, or ask the operator to change the hours."


@dataclass(frozen=True, slots=True)
class Untimely:
    """A call to `party` at this time needs `requirement` by `rule`, because of `reason`.

    `reason` is a phrase, and `hint` says when to call instead.
    """

    party: str
    requirement: Requirement
    rule: str
    reason: str
    hint: str

    @property
    def id(self) -> str:
        """The id that becomes part of the change's state if the preview mentions this."""
        return json.dumps((self.rule, self.party))  # one line, whatever the party

    @property
    def sentence(self) -> str:
        """The reason as a sentence."""
        return f"{self.reason[0].upper()}{self.reason[1:]}."


def untimely(hours: Hours, parties: Sequence[str], now: datetime) -> tuple[Untimely, ...]:
    """Return the parties for which it is outside calling hours, or whose local time is unknown.

    The parties are in their canonical spelling, and `now` is in UTC.
    """
    found = (_untimely(hours, party, now, is_alone=len(parties) == 1) for party in parties)
    return tuple(each for each in found if each is not None)


def _untimely(hours: Hours, party: str, now: datetime, *, is_alone: bool) -> Untimely | None:
    places = [local_times(number, now) for number in sorted(numbers_of(party))]
    known = [place for place in places if place.times]
    whom = "" if is_alone else f" for {shown(party)}"
    outside = [(hours.of(place.country), place) for place in known]
    outside = [(rules, place) for rules, place in outside if not _is_open(rules, place.times)]
    if outside:
        needs: dict[Requirement, str] = {
            _requirement(rules.outside): "hours.outside" for rules, _ in outside
        }
        requirement, rule = strictest(needs)
        rules, place = outside[0]
        reason = f"it is {place}{whom}, and calls there are {_allowed(rules, place.times)}"
        return Untimely(party, requirement, rule, reason, _hint(rules, place, now))
    if not known and hours.unknown != "allow":
        reason = f"the local time{whom or ' of the called party'} is unknown"
        return Untimely(party, _requirement(hours.unknown), "hours.unknown", reason, _ASK)
    return None


def _requirement(exceptional: str | None) -> Requirement:
    match exceptional:
        case "confirm" | "require_human" | "operator" | "deny":
            return exceptional
        case _:
            return "never"


def _is_open(rules: CountryHours, times: Iterable[datetime]) -> bool:
    return all(rules.on(each).has(each) for each in times)


def _allowed(rules: CountryHours, times: Iterable[datetime]) -> str:
    closed = next(each for each in times if not rules.on(each).has(each))
    span = rules.on(closed)
    return f"allowed {span}" if span.end else f"not allowed on {closed:%A}s"


def _hint(rules: CountryHours, place: LocalTimes, now: datetime) -> str:
    opening = min(_openings(rules, place.times, now), default=None)
    if opening is None:
        return _ASK
    return f"Try again in {about((opening - now).total_seconds())}. {_ASK}"


def _openings(rules: CountryHours, times: Sequence[datetime], now: datetime) -> Iterator[datetime]:
    """Yield the times in the next days at which calls become allowed in all zones."""
    for local in times:
        for days in range(8):
            date = local.date() + timedelta(days)
            span = rules.on(datetime.combine(date, time()))
            start = datetime.combine(date, time(*divmod(span.start, 60)), local.tzinfo)
            opening = start.astimezone(UTC)
            is_later = span.end and opening > now
            if is_later and _is_open(rules, [opening.astimezone(each.tzinfo) for each in times]):
                yield opening
