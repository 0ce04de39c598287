"""Phone numbers as people write them."""

import re
from functools import lru_cache

import phonenumbers
from phonenumbers import PhoneNumberFormat

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")


@lru_cache(maxsize=1024)
def formatted(address: str) -> str:
    """Return an E.164 number in international form, such as +1 202 555 0123.

    Other addresses are returned unchanged.
    """
    if not _E164.fullmatch(address):
        return address
    try:
        number = phonenumbers.parse(address)
    except phonenumbers.NumberParseException:
        return address
    return phonenumbers.format_number(number, PhoneNumberFormat.INTERNATIONAL).replace("-", " ")


@lru_cache(maxsize=1024)
def country(address: str) -> str:
    """Return the two-letter country code of an E.164 number, empty if it has none."""
    if not _E164.fullmatch(address):
        return ""
    try:
        return phonenumbers.region_code_for_number(phonenumbers.parse(address)) or ""
    except phonenumbers.NumberParseException:
        return ""
