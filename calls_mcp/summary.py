"""A call as the API tells it → `CallSummary`: typed, normalized, without what is not known.

Nothing the API may say breaks a summary: a value that can't be read is left out, and a field that
is not known here is not passed on.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import cast

from calls_mcp.catalog import Json
from calls_mcp.outcome import CallSummary
from calls_mcp.redaction import one_line

LIVE = frozenset({"queued", "ringing", "in-progress"})
FINAL = frozenset({"completed", "busy", "no-answer", "failed", "canceled"})

_LONGEST_TEXT = 256  # characters
_MOST_DIGITS = 15
_LONGEST_PRICE = 40  # characters
_DECIMAL = re.compile(r"[+-]?[0-9]+([.][0-9]+)?([eE][+-]?[0-9]{1,4})?")
_TERM = re.compile(r"[A-Za-z0-9_-]{1,40}")
_USUAL_TIME = re.compile(
    r"[A-Z][a-z]{2}, ([0-9]{2} [A-Z][a-z]{2} [12][0-9]{3}) "
    r"((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]) [+]0000"
)
_CALL_SID = re.compile(r"CA[0-9a-fA-F]{32}")


class Unreadable(ValueError):
    """What the API sent is not a call."""


def summarize(payload: Mapping[str, Json]) -> CallSummary:
    """The summary of one call.

    Raises:
        Unreadable: `payload` has no call SID.
    """
    sid = payload.get("sid")
    if not isinstance(sid, str) or not _CALL_SID.fullmatch(sid):
        raise Unreadable("the API's answer is not a call")
    summary: dict[str, str | int | bool] = {}
    for name, (field, reader) in _FIELDS.items():
        told = payload.get(field)
        if told is not None and (value := reader(told)) is not None:
            summary[name] = value
    return cast("CallSummary", summary)


def _text(value: Json) -> str | None:
    text = one_line(value, _LONGEST_TEXT) if isinstance(value, str) else ""
    return text or None


def _term(value: Json) -> str | None:
    """A word or a SID of the API's own; whatever else stands there is not known."""
    return value if isinstance(value, str) and _TERM.fullmatch(value) else None


def _live(value: Json) -> bool | None:
    return value in LIVE if isinstance(value, str) and value in LIVE | FINAL else None


def _count(value: Json) -> int | None:
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def _time(value: Json) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        if usual := _USUAL_TIME.fullmatch(value):  # the library takes ten times as long
            return f"{_date(usual[1])}T{usual[2]}Z"
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # "-0000" says nothing
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=64)
def _date(text: str) -> str:
    """`25 Nov 2026` as ISO 8601 has it."""
    return parsedate_to_datetime(f"{text} 00:00:00 +0000").date().isoformat()


def _cost(value: Json) -> str | None:
    """A negative price is a charge, told here as a positive cost."""
    text = str(value)
    return _charge(text) if len(text) <= _LONGEST_PRICE else None


@lru_cache(maxsize=256)  # most calls cost the same as others
def _charge(text: str) -> str | None:
    if not _DECIMAL.fullmatch(text):
        return None
    price = Decimal(text)
    if not price.is_finite() or price > 0 or abs(price.adjusted()) > _MOST_DIGITS:
        return None
    return f"{abs(price).normalize():f}"


_FIELDS: dict[str, tuple[str, Callable[[Json], str | int | bool | None]]] = {
    "sid": ("sid", _text),
    "status": ("status", _term),
    "live": ("status", _live),
    "direction": ("direction", _term),
    "from": ("from", _text),
    "to": ("to", _text),
    "caller_name": ("caller_name", _text),
    "answered_by": ("answered_by", _term),
    "created_at": ("date_created", _time),
    "started_at": ("start_time", _time),
    "ended_at": ("end_time", _time),
    "duration_seconds": ("duration", _count),
    "queue_ms": ("queue_time", _count),
    "cost": ("price", _cost),
    "currency": ("price_unit", _term),
    "parent_call_sid": ("parent_call_sid", _term),
    "forwarded_from": ("forwarded_from", _text),
    "account_sid": ("account_sid", _term),
    "phone_number_sid": ("phone_number_sid", _term),
    "trunk_sid": ("trunk_sid", _term),
    "group_sid": ("group_sid", _term),
}
