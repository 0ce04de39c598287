"""Whom a call may ring: numbers, SIP addresses and clients."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from calls_mcp.guard.policy.rules import Destinations, Objection
from calls_mcp.tools.catalog import address_kind

_SHORTEST_SUBSCRIBER = 7  # digits: +290, +683 and +690 with four more
_LONGEST_EMERGENCY = 9  # digits, calling code included: +227 723141

_SIP = re.compile(
    r"(?P<user>[^@;?/\\]+)@(?P<host>[^@;?/\\]+)(?:(?!.*maddr)[;?][^@]*)?", re.IGNORECASE
)
_EMERGENCY_USER = re.compile(r"\+?(112|911|999)[@;]")

_HINT = "Ask the user for another number, or the operator to allow this one."


@dataclass(frozen=True, slots=True)
class _Number:
    """What is known of a number. `regions` are several where only the calling code tells."""

    canonical: str
    regions: frozenset[str]
    type: str
    emergency: bool


def object_to_destination(rules: Destinations, to: str) -> Iterator[Objection]:
    """Yield what `rules` have against calling `to`."""
    kind = address_kind(to)
    address = to.partition(":")[2]
    if kind == "phone number":
        yield from _object_to_number(rules, to)
    elif kind == "SIP address" and _EMERGENCY_USER.match(address):
        yield _emergency()
    elif kind == "SIP address" and not _allows_sip(rules.allow_sip, address):
        reason = "to is a SIP address that it does not allow"
        yield Objection("destinations.allow_sip", reason, _HINT)
    elif kind == "client" and not matches_any(rules.allow_clients, address.partition("?")[0]):
        reason = "to is a client that it does not allow"
        yield Objection("destinations.allow_clients", reason, _HINT)


def canonical(to: str) -> str:
    """Return the one spelling of all those that reach the same party, as far as is known."""
    if address_kind(to) == "phone number":
        return _look_up(to).canonical
    return _lower_host(to) if address_kind(to) == "SIP address" else to


def _object_to_number(rules: Destinations, number: str) -> Iterator[Objection]:
    digits = len(number) - 1
    if digits < _SHORTEST_SUBSCRIBER:
        yield _emergency()
    if not (digits <= _LONGEST_EMERGENCY or _describes_numbers(rules)):
        return
    facts = _look_up(number)
    if facts.emergency:
        yield _emergency()
    for rule, reason in _mismatches(rules, number, facts):
        yield Objection(f"destinations.{rule}", f"to is {reason}", _HINT)


def _describes_numbers(rules: Destinations) -> bool:
    prefixes = rules.allow_prefixes or rules.deny_prefixes
    return bool(
        prefixes or rules.allow_countries or rules.deny_countries or rules.deny_number_types
    )


def _emergency() -> Objection:
    reason = "to is an emergency or service number, or too short to be a subscriber's"
    hint = "Tell the user to dial it themselves; no setting allows it."
    return Objection("destinations.emergency", reason, hint)


def _mismatches(rules: Destinations, number: str, facts: _Number) -> Iterator[tuple[str, str]]:
    spellings = (number, facts.canonical)  # +44 0900… reaches +44 900…
    if any(spelling.startswith(rules.deny_prefixes) for spelling in spellings):
        yield "deny_prefixes", "a number that begins with a prefix it denies"
    if rules.allow_prefixes and not all(s.startswith(rules.allow_prefixes) for s in spellings):
        yield "allow_prefixes", "a number that begins with no prefix it allows"
    if facts.regions & {*rules.deny_countries}:
        yield "deny_countries", "a number in a country it denies"
    if rules.allow_countries and not _lies_in(rules.allow_countries, facts.regions):
        yield "allow_countries", "a number in no country it allows"
    if facts.type in rules.deny_number_types:
        yield "deny_number_types", f"a number of type {facts.type}, which it denies"


def _lies_in(countries: Iterable[str], regions: frozenset[str]) -> bool:
    return bool(regions) and regions <= {*countries}


def _look_up(number: str) -> _Number:
    import phonenumbers as known  # noqa: PLC0415  # 50 ms, if a rule needs it

    try:
        parsed = known.parse(number)
    except known.NumberParseException:
        return _Number(number, frozenset(), "unknown", emergency=False)
    sharing = known.region_codes_for_country_code(parsed.country_code or 0)
    region = known.region_code_for_number(parsed)
    national = known.national_significant_number(parsed)
    return _Number(
        canonical=known.format_number(parsed, known.PhoneNumberFormat.E164),
        regions=frozenset({region} if region else sharing),
        type=_type(number),
        emergency=any(known.is_emergency_number(national, country) for country in sharing),
    )


def _type(number: str) -> str:
    """Return the type of a number; of one with too many digits, that of the number reached."""
    import phonenumbers as known  # noqa: PLC0415

    for end in range(len(number), _SHORTEST_SUBSCRIBER, -1):
        kind = known.number_type(known.parse(number[:end]))
        if kind != known.PhoneNumberType.UNKNOWN:
            return known.PhoneNumberType.to_string(kind).lower()
    return "unknown"


def matches_any(patterns: Iterable[str], text: str) -> bool:
    """Return whether one of `patterns` (`*` any characters, `?` one) matches all of `text`."""
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _allows_sip(patterns: tuple[str, ...], address: str) -> bool:
    """Return whether a pattern matches user@host. An ambiguous address matches only *."""
    plain = _SIP.fullmatch(address)
    if plain is None:
        return "*" in patterns
    return matches_any(map(_lower_host, patterns), _lower_host(f"{plain['user']}@{plain['host']}"))


def _lower_host(address: str) -> str:
    user, at, host = address.rpartition("@")
    return f"{user}{at}{host.lower()}"
