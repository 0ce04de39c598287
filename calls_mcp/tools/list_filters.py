"""The filters of a list: times in UTC, and warnings about filters that match nothing."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from calls_mcp.tools.catalog import Json
from calls_mcp.tools.suggestions import LONGEST_NATIONAL_NUMBER

_DIGITS = re.compile(r"[0-9]{7,15}")  # fewer are a short code
_DAYS = ("start_time", "end_time")  # of these filters, only the UTC date counts


class _Bound(NamedTuple):
    """The first or last moment that a filter allows."""

    moment: datetime
    filter: str


def utc(text: str) -> datetime:
    """Return a date, which means 00:00 UTC, or a date-time with a time zone.

    Raises:
        ValueError: There is no such date or time.
        OverflowError: It is before year 1 or after year 9999 in UTC.
    """
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def time_in_utc(name: str, text: str) -> str:
    """Return a valid time for the filter `name`: a date, or a date-time in UTC."""
    if "T" not in text:
        return text
    moment = utc(text)
    if name in _DAYS:
        return moment.date().isoformat()
    return moment.replace(tzinfo=None).isoformat() + "Z"


def filter_warnings(filters: Mapping[str, Json]) -> Iterator[str]:
    """Yield warnings about valid filters that do not do what is probably meant."""
    texts = {name: value for name, value in filters.items() if isinstance(value, str)}
    for name in ("to", "from"):
        if _DIGITS.fullmatch(texts.get(name, "")):
            yield _without_country_code(name, texts[name])
    for day in _DAYS:
        if day in texts and utc(texts[day]).time() != datetime.min.time():
            date = time_in_utc(day, texts[day])
            yield f"{day} selects the whole UTC day {date}; its time of day is ignored"
    yield from _about_ranges(texts)


def _without_country_code(name: str, number: str) -> str:
    has_one = len(number) > LONGEST_NATIONAL_NUMBER and number[0] != "0"
    send = f"+{number}" if has_one else "+ and the country code first"
    return (
        f"no phone number matches {name}={number}, because it has no +; "
        f"for a phone number, send {send}"
    )


def _about_ranges(texts: Mapping[str, str]) -> Iterator[str]:
    first = {day: max(_first(texts, day), default=None) for day in _DAYS}
    last = {day: min(_last(texts, day), default=None) for day in _DAYS}
    for start, end in (("start_time",) * 2, ("end_time",) * 2, _DAYS):
        lower, upper = first[start], last[end]
        if lower and upper and lower.moment > upper.moment:
            yield f"no call can match, because {lower.filter} is later than {upper.filter}"
        elif lower and upper and start == end and lower.moment == upper.moment:
            yield (
                f"{lower.filter} and {upper.filter} are the same, so they select a single "
                f"second; for a whole UTC day, send only {start}={lower.moment.date()}"
            )
    for lower in filter(None, first.values()):
        if lower.moment > datetime.now(UTC):
            yield f"no call can match, because {lower.filter} is in the future"


def _first(texts: Mapping[str, str], day: str) -> Iterator[_Bound]:
    if day in texts:
        yield _Bound(utc(time_in_utc(day, texts[day])), day)
    if (after := f"{day}_after") in texts:
        yield _Bound(utc(texts[after]), after)


def _last(texts: Mapping[str, str], day: str) -> Iterator[_Bound]:
    if day in texts:
        midnight = utc(time_in_utc(day, texts[day]))
        yield _Bound(midnight.replace(hour=23, minute=59, second=59, microsecond=999_999), day)
    if (before := f"{day}_before") in texts:
        yield _Bound(utc(texts[before]), before)
