"""The hours of each day at which numbers may be called: the section [hours] of the policy."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, with_config

_DAY = 24 * 60  # minutes
_SPAN = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]|24(?=:00)):([0-5][0-9])")
_EXPECTED = (
    'must be hours such as "08:00-21:00", with the end after the start, or "always" or "never"'
)
_CLOSED = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a day, in minutes since midnight. `end` is exclusive."""

    start: int
    end: int

    def has(self, moment: datetime) -> bool:
        """Return whether the local time of `moment` is in this span."""
        return self.start <= 60 * moment.hour + moment.minute < self.end

    def __str__(self) -> str:
        """Return a phrase, such as "from 08:00 to 21:00"."""
        if self in (ALWAYS, NEVER):
            return "at any time" if self.end else "never"
        return f"from {_clock(self.start)} to {_clock(self.end)}"


ALWAYS, NEVER = Span(0, _DAY), Span(0, 0)


def _parsed(text: object) -> Span:
    if text in ("always", "never"):
        return ALWAYS if text == "always" else NEVER
    found = _SPAN.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(_EXPECTED)
    hour, minute, last_hour, last_minute = map(int, found.groups())
    span = Span(60 * hour + minute, 60 * last_hour + last_minute)
    if span.start >= span.end:
        raise ValueError(_EXPECTED)
    return span


def _known_country(code: str) -> str:
    """Return a known country code. The rule of an unknown one would silently never apply."""
    from phonenumbers import SUPPORTED_REGIONS  # noqa: PLC0415  # 50 ms, if a rule needs it

    if code not in SUPPORTED_REGIONS:
        raise ValueError('must be a country code (ISO 3166), such as "DE" or "GB"')
    return code


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


Country = Annotated[str, AfterValidator(_known_country)]
DayHours = Annotated[Span, BeforeValidator(_parsed)]
Exceptional = Literal["allow", "confirm", "require_human", "operator", "deny"]


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class CountryHours:
    """The hours of a country. Missing values are those of `Hours`.

    `daily` is for days without their own hours.
    """

    daily: DayHours | None = None
    monday: DayHours | None = None
    tuesday: DayHours | None = None
    wednesday: DayHours | None = None
    thursday: DayHours | None = None
    friday: DayHours | None = None
    saturday: DayHours | None = None
    sunday: DayHours | None = None
    outside: Exceptional | None = None

    def on(self, moment: datetime) -> Span:
        """Return the hours on the day of a local `moment`."""
        week = (
            self.monday,
            self.tuesday,
            self.wednesday,
            self.thursday,
            self.friday,
            self.saturday,
            self.sunday,
        )
        return week[moment.weekday()] or self.daily or ALWAYS

    def own_days(self) -> Iterator[tuple[str, Span]]:
        """Yield the days that have their own hours, by name."""
        for field in fields(self):
            if field.name not in ("daily", "outside", "unknown", "countries"):
                span: Span | None = getattr(self, field.name)
                if span is not None:
                    yield field.name.capitalize(), span


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Hours(CountryHours):
    """The hours of all countries except those in `countries`, in the called party's local time.

    A call at another time needs `outside`. A call to a party whose local time is not known needs
    `unknown`.
    """

    unknown: Exceptional
    countries: Mapping[Country, CountryHours]

    def of(self, country: str) -> CountryHours:
        """Return the hours of a country (two letters)."""
        own = self.countries.get(country)
        if own is None:
            return self
        names = (field.name for field in fields(own))
        given = {name: value for name in names if (value := getattr(own, name)) is not None}
        return replace(self, **given)
