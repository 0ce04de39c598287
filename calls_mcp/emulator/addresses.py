"""The addresses of parties: phone numbers, SIP addresses and clients."""

import re
from uuid import NAMESPACE_URL, uuid5

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat, ValidationResult

PHONE = r"\+[1-9][0-9]{1,14}"
ADDRESS = rf"{PHONE}|sips?:[^@\s]+@[^@\s]+|client:\S+"

_NATIONAL_REGION = "US"  # of numbers without a country code
_NOTATION = re.compile(r"\+?[0-9 ().-]+")
_NORTH_AMERICAN = re.compile(r"\+1([0-9]{3})([0-9]{3})([0-9]{4})")


def is_phone_number(text: str) -> bool:
    """Return whether this is a phone number in E.164 format."""
    return re.fullmatch(PHONE, text) is not None


def is_sip_address(text: str) -> bool:
    """Return whether this is a SIP address."""
    return text.lower().startswith(("sip:", "sips:"))


def is_address(text: str) -> bool:
    """Return whether this is a phone number, SIP address or client."""
    return re.fullmatch(ADDRESS, text) is not None


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


def formatted(address: str) -> str:
    """Format a North American number as `(617) 555-1212`, and return other addresses unchanged."""
    match = _NORTH_AMERICAN.fullmatch(address)
    return "({}) {}-{}".format(*match.groups()) if match else address


def country(number: str) -> str:
    """Return the ISO 3166 code of a number's country, such as `US`, or an empty string."""
    try:
        return phonenumbers.region_code_for_number(phonenumbers.parse(number)) or ""
    except NumberParseException:
        return ""


def number_sid(number: str) -> str:
    """Return the SID of one of the account's numbers, which is always the same."""
    return f"PN{uuid5(NAMESPACE_URL, f'tel:{number}').hex}"
