"""What is known about a phone number, from the numbering plans of all countries."""

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers
from phonenumbers import PhoneNumber

from calls_mcp.guard.policy.sip_address import LONGEST_EMERGENCY, SHORTEST_SUBSCRIBER

_MEXICO, _OLD_MEXICAN_MOBILE = "+52", "+521"  # the 1 was dialed until 2019, and still can be
_LONGEST = 18  # characters: three more digits than E.164 allows. The network ignores the rest.


@dataclass(frozen=True, slots=True)
class NumberFacts:
    """What is known about a number. It has several `regions` if only its calling code is known.

    The phone network ignores extra digits, so it most likely dials `reached`. `with_trunk` has the
    0 that is only dialed without the country code, unless this makes it a number of somebody else.
    """

    number: str
    canonical: str
    reached: str
    with_trunk: str
    regions: frozenset[str]
    type: str
    is_valid: bool
    emergency: bool

    @property
    def spellings(self) -> frozenset[str]:
        """Return the number as it is dialed from abroad and at home, and as it once was."""
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
    number = number[:_LONGEST]
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        nobody: frozenset[str] = frozenset()
        return NumberFacts(
            number, number, number, number, nobody, "unknown", is_valid=False, emergency=False
        )
    sharing = phonenumbers.region_codes_for_country_code(parsed.country_code or 0)
    region = phonenumbers.region_code_for_number(parsed)
    is_valid = phonenumbers.is_valid_number(parsed)
    starts = map(phonenumbers.parse, _starts(number))  # only parsed if needed
    reached = parsed if is_valid else next(filter(phonenumbers.is_valid_number, starts), parsed)
    return NumberFacts(
        number=number,
        canonical=_e164(parsed),
        reached=_e164(reached),
        with_trunk=_own(_with_trunk(parsed), parsed),
        regions=frozenset({region} if region else sharing),
        type=phonenumbers.PhoneNumberType.to_string(phonenumbers.number_type(reached)).lower(),
        is_valid=is_valid,
        emergency=any(_is_emergency(parsed, country) for country in sharing),
    )


@lru_cache(maxsize=256)
def _spellings(number: str) -> frozenset[str]:
    """Return all spellings of a number that lists may have, without those of other numbers."""
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return frozenset({number})
    code, canonical = f"+{parsed.country_code}", _e164(parsed)
    domestic = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL)
    at_home = phonenumbers.normalize_digits_only(domestic)  # in Argentina, mobile numbers get a 15
    others = {_with_trunk(parsed), code + at_home, code + at_home.removeprefix("0")}
    if code == _MEXICO:
        others.add(canonical.replace(_MEXICO, _OLD_MEXICAN_MOBILE, 1))
    return frozenset({number, canonical, *(_own(other, parsed) for other in others)})


def _with_trunk(number: PhoneNumber) -> str:
    return f"+{number.country_code}0{phonenumbers.national_significant_number(number)}"


def _own(spelling: str, number: PhoneNumber) -> str:
    """Return a spelling of a number, or its canonical one if both are valid, and not the same."""
    with suppress(phonenumbers.NumberParseException):
        parsed = phonenumbers.parse(spelling)
        if parsed != number and all(map(phonenumbers.is_valid_number, (parsed, number))):
            return _e164(number)
    return spelling


def _starts(number: str) -> tuple[str, ...]:
    """Return the numbers that a number begins with, as they are dialed now, longest first."""
    is_old = number.startswith(_OLD_MEXICAN_MOBILE)
    current = number.replace(_OLD_MEXICAN_MOBILE, _MEXICO, 1) if is_old else number
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
    digits, types = digits[:_LONGEST], set[int]()
    for region in phonenumbers.SUPPORTED_REGIONS:
        with suppress(phonenumbers.NumberParseException):
            types.add(phonenumbers.number_type(phonenumbers.parse(digits, region)))
    types.discard(phonenumbers.PhoneNumberType.UNKNOWN)
    return frozenset(phonenumbers.PhoneNumberType.to_string(kind).lower() for kind in types)
