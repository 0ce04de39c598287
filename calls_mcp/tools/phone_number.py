"""Phone numbers as people write them."""

import re

import phonenumbers
from phonenumbers import PhoneNumberFormat

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")


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
