"""Check calls against the calling hours, in the local time of the called numbers."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import phonenumbers
from phonenumbers import PhoneNumber, PhoneNumberType, timezone

from calls_mcp.guard.policy.destinations import numbers_of
from calls_mcp.guard.policy.evaluation import strictest
from calls_mcp.guard.policy.rules import CountryHours, Hours, Requirement
from calls_mcp.tools.humanize import about, shown

_ASK = "Tell your user, or ask the operator to change the hours."
_ANYWHERE = frozenset(
    {
        PhoneNumberType.PAGER,
        PhoneNumberType.PERSONAL_NUMBER,
        PhoneNumberType.PREMIUM_RATE,
        PhoneNumberType.SHARED_COST,
        PhoneNumberType.TOLL_FREE,
        PhoneNumberType.UAN,
        PhoneNumberType.VOICEMAIL,
        PhoneNumberType.VOIP,
    }
)
"""Types of numbers that say nothing about where the phone is."""


@dataclass(frozen=True, slots=True)
class LocalTimes:
    """The times in all places where a number can be, earliest first; empty if it can be anywhere.

    `country` has two letters (ISO 3166), or is empty.
    """

    country: str
    times: tuple[datetime, ...]

    def __str__(self) -> str:
        """Return a phrase, such as "Tuesday 07:14 (New York time, US)"."""
        if not self.times:
            return ""
        first, last = self.times[0], self.times[-1]
        if first.utcoffset() == last.utcoffset():
            zone = ", ".join(filter(None, (f"{_city(first)} time", self.country)))
            return f"{first:%A %H:%M} ({zone})"
        end = f"{last:%H:%M}" if last.date() == first.date() else f"{last:%A %H:%M}"
        place = f" ({self.country})" if self.country else ""
        return f"between {first:%A %H:%M} and {end}{place}"


def local_times(number: str, now: datetime) -> LocalTimes:
    """Return the times at `now` where a phone number in E.164 format can be.

    Time zones are those of the number's prefix (libphonenumber). A phone can be elsewhere.
    """
    country, zones = _look_up(number)
    by_offset = {local.utcoffset(): local for local in map(now.astimezone, zones)}
    times = sorted(by_offset.values(), key=lambda time: time.replace(tzinfo=None))
    return LocalTimes(country, tuple(times))


@dataclass(frozen=True, slots=True)
class OutsideHours:
    """A call outside calling hours: `rule` sets the `requirement` for calling `party` now.

    `reason` is a phrase that says why, and `hint` says when to call instead.
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


def outside_hours(hours: Hours, parties: Sequence[str], now: datetime) -> tuple[OutsideHours, ...]:
    """Return the parties for which it is outside calling hours, or whose local time is unknown.

    The parties are in their canonical spelling, and `now` is in UTC.
    """
    found = (_outside_hours(hours, party, now, is_alone=len(parties) == 1) for party in parties)
    return tuple(each for each in found if each is not None)


def _outside_hours(
    hours: Hours, party: str, now: datetime, *, is_alone: bool
) -> OutsideHours | None:
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
        return OutsideHours(party, requirement, rule, reason, _hint(rules, place, now))
    if not known and hours.unknown != "allow":
        reason = f"the local time{whom or ' of the called party'} is unknown"
        return OutsideHours(party, _requirement(hours.unknown), "hours.unknown", reason, _ASK)
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
    """Yield the times in the next week at which calls become allowed in all zones."""
    for local in times:
        for days in range(8):
            date = local.date() + timedelta(days)
            span = rules.on(datetime.combine(date, time()))
            start = datetime.combine(date, time(*divmod(span.start, 60)), local.tzinfo)
            opening = start.astimezone(UTC)
            is_later = span.end and opening > now
            if is_later and _is_open(rules, [opening.astimezone(each.tzinfo) for each in times]):
                yield opening


@lru_cache(maxsize=1024)
def _look_up(number: str) -> tuple[str, tuple[ZoneInfo, ...]]:
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return "", ()
    country, number_type = _country(parsed), phonenumbers.number_type(parsed)
    if number_type in _ANYWHERE:
        return country, ()
    if number_type == PhoneNumberType.UNKNOWN:  # its numbering plan may be newer than the library
        names = timezone.time_zones_for_geographical_number(parsed)
    else:
        names = timezone.time_zones_for_number(parsed)
    try:
        return country, tuple(ZoneInfo(name) for name in names if name != timezone.UNKNOWN_TIMEZONE)
    except ZoneInfoNotFoundError:
        return country, ()  # the number may be in the zone that this machine does not know


def _country(number: PhoneNumber) -> str:
    """Return the country of a number; empty if its calling code does not say which it is."""
    sharing = phonenumbers.region_codes_for_country_code(number.country_code or 0)
    alone = sharing[0] if len(sharing) == 1 else ""
    return phonenumbers.region_code_for_number(number) or alone


def _city(time: datetime) -> str:
    """Return the city in the name of a time's zone."""
    return str(time.tzinfo).rpartition("/")[2].replace("_", " ")
