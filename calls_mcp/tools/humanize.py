"""Numbers, times, phone numbers, lists and quoted texts as people read them."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from calls_mcp.observability.redaction import escape_invisible

_ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth", "Ninth")
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
_DIRECTIONS = {
    "outbound-api": "outbound",
    "outbound-dial": "outbound, dialed by another call",
    "trunking-originating": "from a SIP trunk",
    "trunking-terminating": "to a SIP trunk",
}
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
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


def formatted(address: str) -> str:
    """Return an E.164 number in international form, such as +1 202 555 0123.

    Other addresses are returned unchanged.
    """
    return _form_and_country(address)[0]


def country(address: str) -> str:
    """Return the two-letter country code of an E.164 number, empty if it has none."""
    return _form_and_country(address)[1]


@lru_cache(maxsize=1024)
def _form_and_country(address: str) -> tuple[str, str]:
    if not _E164.fullmatch(address):
        return address, ""
    import phonenumbers  # noqa: PLC0415  # 60 ms, for numbers

    try:
        number = phonenumbers.parse(address)
    except phonenumbers.NumberParseException:
        return address, ""
    international = phonenumbers.PhoneNumberFormat.INTERNATIONAL
    form = phonenumbers.format_number(number, international).replace("-", " ")
    return form, phonenumbers.region_code_for_number(number) or ""


def shown(address: str) -> str:
    """Return a number as people write it, and any other address in quotes."""
    number = formatted(address)
    return number if number != address else exactly(address)


def exactly(text: str) -> str:
    """Return a text in double quotes, so that it can't be taken for a sentence of the server."""
    plain = escape_invisible(text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + plain.replace("\n", " ") + '"'
