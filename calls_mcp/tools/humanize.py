"""Numbers and lists in sentences."""

from collections.abc import Sequence
from datetime import UTC, datetime

_ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth", "Ninth")
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
_DIRECTIONS = {
    "outbound-api": "outbound",
    "outbound-dial": "outbound, dialed by another call",
    "trunking-originating": "from a SIP trunk",
    "trunking-terminating": "to a SIP trunk",
}
_UNITS = (("h", 3600), ("min", 60))


def duration(seconds: float) -> str:
    """Return an exact duration in the largest unit that fits, such as 4 h, 15 min or 90 s."""
    whole = round(seconds)
    fitting = ((whole // length, unit) for unit, length in _UNITS if whole and whole % length == 0)
    amount, unit = next(fitting, (whole, "s"))
    return f"{amount} {unit}"


def about(seconds: float) -> str:
    """Return a duration to the unit that matters, rounded up, such as 3 h for 8000 s."""
    whole = max(0, round(seconds))
    for unit, length in _UNITS:
        if whole >= 2 * length or (whole and whole % length == 0):
            return f"{-(-whole // length)} {unit}"
    return f"{whole} s"


def iso_time(seconds: float) -> str:
    """Return an epoch time in ISO 8601, in UTC and whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def plain(value: str) -> str:
    """Return a status or direction of the API in words, such as "in progress" for in-progress."""
    return _DIRECTIONS.get(value) or value.replace("-", " ")


def counted(amount: int, noun: str) -> str:
    """Return an amount with its noun, such as 1 call or 2 calls."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def listed(names: Sequence[str]) -> str:
    """Return names as a phrase, such as "say, url and twiml"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def ordinal(number: int) -> str:
    """Return an ordinal number to begin a sentence with, such as Second or 12th."""
    if number <= len(_ORDINALS):
        return _ORDINALS[number - 1]
    is_teen = number // 10 % 10 == 1
    return f"{number}{'th' if is_teen else _ENDINGS.get(number % 10, 'th')}"
