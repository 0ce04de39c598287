"""What is known about a phone number, from the numbering plans of all countries."""

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers
from phonenumbers import PhoneNumber

from calls_mcp.guard.policy.sip_address import LONGEST_EMERGENCY, SHORTEST_SUBSCRIBER

# Mobile numbers began with a 1 until 2019. Networks still accept it.
_OLD_MEXICAN_MOBILE = re.compile(r"\A\+521")
_MEXICAN = re.compile(r"\A\+52")


@dataclass(frozen=True, slots=True)
class NumberFacts:
    """What is known about a number. It has several `regions` if only its calling code is known.

    The phone network ignores extra digits, so it most likely dials `reached`.
    """

    number: str
    canonical: str
    reached: str
    regions: frozenset[str]
    type: str
    is_valid: bool
    emergency: bool

    @property
    def spellings(self) -> frozenset[str]:
        """Return the number as lists may have it."""
        return _spellings(self.number)

    @property
    def shorter(self) -> frozenset[str]:
        """Return all spellings of the numbers that this one continues with more digits.

        The network may dial one of them, even if this number is valid: in countries without a
        fixed length, longer numbers often are.
        """
        return frozenset[str]().union(*map(_spellings, _starts(self.number)))


@lru_cache(maxsize=256)  # a change looks its numbers up several times, 0.3 ms each
def look_up(number: str) -> NumberFacts:
    """Return what is known about a number with + and country code."""
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        nobody: frozenset[str] = frozenset()
        return NumberFacts(
            number, number, number, nobody, "unknown", is_valid=False, emergency=False
        )
    sharing = phonenumbers.region_codes_for_country_code(parsed.country_code or 0)
    region = phonenumbers.region_code_for_number(parsed)
    is_valid = phonenumbers.is_valid_number(parsed)
    known = (parsed, *map(phonenumbers.parse, _starts(number)))
    reached = next(filter(phonenumbers.is_valid_number, known), parsed)
    return NumberFacts(
        number=number,
        canonical=_e164(parsed),
        reached=_e164(reached),
        regions=frozenset({region} if region else sharing),
        type=phonenumbers.PhoneNumberType.to_string(phonenumbers.number_type(reached)).lower(),
        is_valid=is_valid,
        emergency=any(_is_emergency(parsed, country) for country in sharing),
    )


def _spellings(number: str) -> frozenset[str]:
    """Return a number as it is dialed, also at home: with a 0, or as old lists have it."""
    with suppress(phonenumbers.NumberParseException):
        parsed = phonenumbers.parse(number)
        code, canonical = f"+{parsed.country_code}", _e164(parsed)
        domestic = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL)
        dialed = phonenumbers.normalize_digits_only(domestic)
        with_trunk = canonical.replace(code, f"{code}0", 1)
        found = {number, canonical, with_trunk, code + dialed, code + dialed.removeprefix("0")}
        return frozenset({*found, _MEXICAN.sub("+521", canonical)})
    return frozenset({number})


def _starts(number: str) -> tuple[str, ...]:
    """Return the numbers that a number begins with, as they are dialed now, longest first."""
    current = _OLD_MEXICAN_MOBILE.sub("+52", number)
    return tuple(current[:end] for end in range(len(number) - 1, SHORTEST_SUBSCRIBER, -1))


def _e164(number: PhoneNumber) -> str:
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _is_emergency(number: PhoneNumber, country: str) -> bool:
    """Return whether an emergency service may answer, even with a trunk prefix or more digits."""
    national = phonenumbers.national_significant_number(number)
    trunk = phonenumbers.ndd_prefix_for_region(country, strip_non_digits=True) or "0"
    dialed = {national, national.removeprefix(trunk), national.removeprefix("0")}
    is_short = len(f"{number.country_code}{national}") <= LONGEST_EMERGENCY
    if is_short and not phonenumbers.is_valid_number(number):
        return any(phonenumbers.connects_to_emergency_number(each, country) for each in dialed)
    return phonenumbers.is_emergency_number(national, country)


@lru_cache(maxsize=256)  # 25 ms
def national_types(digits: str) -> frozenset[str]:
    """Return the types of a number without country code, in all countries where it is valid."""
    types: set[int] = set()
    for region in phonenumbers.SUPPORTED_REGIONS:
        with suppress(phonenumbers.NumberParseException):
            types.add(phonenumbers.number_type(phonenumbers.parse(digits, region)))
    types.discard(phonenumbers.PhoneNumberType.UNKNOWN)
    return frozenset(phonenumbers.PhoneNumberType.to_string(kind).lower() for kind in types)
