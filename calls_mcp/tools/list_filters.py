"""The filters of a list: which of them match no call, and what to send instead."""

import re
from collections.abc import Iterator, Mapping

from calls_mcp.tools.catalog import Json

_DIGITS = re.compile(r"[0-9]{7,15}")  # fewer are a short code
_LONGEST_NATIONAL_NUMBER = 10  # digits


def filter_warnings(values: Mapping[str, Json]) -> Iterator[str]:
    """Yield warnings about valid filters that match nothing, although that may not be meant."""
    for name in ("to", "from"):
        number = values.get(name)
        if isinstance(number, str) and _DIGITS.fullmatch(number):
            yield _without_country_code(name, number)


def _without_country_code(name: str, number: str) -> str:
    has_one = len(number) > _LONGEST_NATIONAL_NUMBER and number[0] != "0"
    send = f"+{number}" if has_one else "+ and the country code first"
    return f"{name} matches no phone number, because it has no +; for a phone number, send {send}"
