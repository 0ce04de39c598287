"""Phone numbers: their usual notations, their countries, and the SIDs of the account's own."""

import re
from uuid import NAMESPACE_URL, uuid5

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat, ValidationResult

_NATIONAL_REGION = "US"  # of numbers without a country code
_NOTATION = re.compile(r"\+?[0-9 ().-]+")


def in_e164(text: str) -> str:
    """Return a phone number such as `(415) 555-1212` in E.164 format, other texts unchanged."""
    if not _NOTATION.fullmatch(text):
        return text
    try:
        number = phonenumbers.parse(text, _NATIONAL_REGION)
    except NumberParseException:
        return text
    if phonenumbers.is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        return text
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def country(number: str) -> str:
    """Return the ISO 3166 code of a number's country, such as `US`, or an empty string."""
    try:
        return phonenumbers.region_code_for_number(phonenumbers.parse(number)) or ""
    except NumberParseException:
        return ""


def number_sid(number: str) -> str:
    """Return the SID of one of the account's numbers, which is always the same."""
    return f"PN{uuid5(NAMESPACE_URL, f'tel:{number}').hex}"
