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
_LONGEST_TERM = 40  # characters
_TERM = re.compile(r"[A-Za-z0-9_-]+")
_HOUR = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [12][0-9]{3} (?:[01][0-9]|2[0-3]):")
_CLOCK = re.compile(r"[0-5][0-9]:[0-5][0-9]")
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
    summary: dict[str, str | int | bool] = {"sid": sid}
    for name, field, reader in _FIELDS:
        told = payload.get(field)
        if told is None:
            continue
        if not isinstance(told, str):
            if reader not in _NUMBERS or not isinstance(told, int | float):
                continue
            told = str(told)
        value = reader(told)
        if value is not None:
            summary[name] = value
    return cast("CallSummary", summary)


def _text(text: str) -> str | None:
    return one_line(text, _LONGEST_TEXT) or None


def _term(text: str) -> str | None:
    """A word or a SID of the API's own; whatever else stands there is not known."""
    return text if len(text) <= _LONGEST_TERM and _is_term(text) else None


@lru_cache(maxsize=256)  # most calls are like others
def _is_term(text: str) -> bool:
    return bool(_TERM.fullmatch(text))


def _count(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def _time(text: str) -> str | None:
    """In the API's own form (`Wed, 25 Nov 2026 08:30:00 +0000`), or in any that a mail may have."""
    hour, clock = _hour(text[:20]), text[20:25]
    if hour and _is_clock(clock) and text[25:] == " +0000":  # the library takes ten times as long
        return f"{hour}{clock}Z"
    try:
        moment = parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # "-0000" says nothing
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=256)
def _hour(text: str) -> str | None:
    """`Wed, 25 Nov 2026 08:` as ISO 8601 has it, with the `T` and the colon."""
    if not _HOUR.fullmatch(text):
        return None
    try:
        return parsedate_to_datetime(f"{text}00:00 +0000").isoformat()[:14]
    except ValueError:
        return None


@lru_cache(maxsize=3600)
def _is_clock(text: str) -> bool:
    return bool(_CLOCK.fullmatch(text))


def _cost(text: str) -> str | None:
    """A negative price is a charge, told here as a positive cost."""
    return _charge(text) if len(text) <= _LONGEST_PRICE else None


@lru_cache(maxsize=256)
def _charge(text: str) -> str | None:
    if not _DECIMAL.fullmatch(text):
        return None
    price = Decimal(text)
    if not price.is_finite() or price > 0 or abs(price.adjusted()) > _MOST_DIGITS:
        return None
    return f"{abs(price).normalize():f}"


_Reader = Callable[[str], str | int | bool | None]
_LIVENESS = dict.fromkeys(LIVE, True) | dict.fromkeys(FINAL, False)
_NUMBERS: frozenset[_Reader] = frozenset({_count, _cost})  # may come as numbers, too
_FIELDS: tuple[tuple[str, str, _Reader], ...] = (
    ("status", "status", _term),
    ("live", "status", _LIVENESS.get),
    ("direction", "direction", _term),
    ("from", "from", _text),
    ("to", "to", _text),
    ("caller_name", "caller_name", _text),
    ("answered_by", "answered_by", _term),
    ("created_at", "date_created", _time),
    ("started_at", "start_time", _time),
    ("ended_at", "end_time", _time),
    ("duration_seconds", "duration", _count),
    ("queue_ms", "queue_time", _count),
    ("cost", "price", _cost),
    ("currency", "price_unit", _term),
    ("parent_call_sid", "parent_call_sid", _term),
    ("forwarded_from", "forwarded_from", _text),
    ("account_sid", "account_sid", _term),
    ("phone_number_sid", "phone_number_sid", _term),
    ("trunk_sid", "trunk_sid", _term),
    ("group_sid", "group_sid", _term),
)
