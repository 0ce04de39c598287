"""Days and times in the reader's time zone.

The script stores the zone in a cookie and rewrites the times of a page in the reader's format.
Without JavaScript, all of them are in UTC.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.requests import Request

_UTC = ZoneInfo("UTC")


def zone_of(request: Request) -> ZoneInfo:
    """Return the reader's time zone, UTC if it is not known."""
    try:
        return ZoneInfo(request.cookies.get("zone", "UTC"))
    except (ValueError, ZoneInfoNotFoundError, OSError):
        return _UTC


def date_faults(first: str, last: str) -> Iterator[str]:
    """Yield what is wrong with the dates of a filter, one sentence each. They may be empty."""
    for name, text in (("From date", first), ("To date", last)):
        if text and not _is_date(text):
            yield f"{name}: use a date such as 2026-01-31."


def bounds(first: str, last: str, zone: ZoneInfo) -> tuple[str, str]:
    """Return the beginning of the first day and the end of the last one.

    They are date-times in UTC without an offset, empty if the date is empty.
    """
    return _midnight(first, zone), _midnight(last, zone, timedelta(days=1))


def local_time(text: str, zone: ZoneInfo) -> datetime | None:
    """Return an ISO 8601 time in a zone, None if it is not valid."""
    try:
        return datetime.fromisoformat(text).astimezone(zone)
    except (ValueError, OverflowError):
        return None


def _is_date(text: str) -> bool:
    """Return whether a text is a date whose midnights exist in every zone."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return False
    return day.isoformat() == text and date.min.year < day.year < date.max.year


def _midnight(day: str, zone: ZoneInfo, later: timedelta = timedelta()) -> str:
    if not day:
        return ""
    local = datetime.combine(date.fromisoformat(day) + later, time(), zone)
    return local.astimezone(UTC).isoformat()[:19]
