"""The local time of a phone number, according to its prefix."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import phonenumbers
from phonenumbers import PhoneNumberType, timezone

_ANYWHERE = frozenset(
    {
        PhoneNumberType.PAGER,
        PhoneNumberType.PERSONAL_NUMBER,
        PhoneNumberType.PREMIUM_RATE,
        PhoneNumberType.SHARED_COST,
        PhoneNumberType.TOLL_FREE,
        PhoneNumberType.UAN,
        PhoneNumberType.UNKNOWN,
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


@lru_cache(maxsize=1024)
def _look_up(number: str) -> tuple[str, tuple[ZoneInfo, ...]]:
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return "", ()
    country = phonenumbers.region_code_for_number(parsed) or ""
    if phonenumbers.number_type(parsed) in _ANYWHERE:
        return country, ()
    names = timezone.time_zones_for_number(parsed)
    try:
        return country, tuple(ZoneInfo(name) for name in names if name != timezone.UNKNOWN_TIMEZONE)
    except ZoneInfoNotFoundError:
        return country, ()  # the number may be in the zone that this machine does not know


def _city(time: datetime) -> str:
    """Return the city in the name of a time's zone."""
    return str(time.tzinfo).rpartition("/")[2].replace("_", " ")
