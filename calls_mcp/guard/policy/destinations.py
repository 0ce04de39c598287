"""Rules about destinations: numbers, SIP addresses and clients."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from calls_mcp.errors import FileError
from calls_mcp.guard.policy.number_list import NumberList, load_numbers
from calls_mcp.guard.policy.rules import Destinations, Objection
from calls_mcp.guard.policy.sip_address import (
    EMERGENCY,
    LONGEST_EMERGENCY,
    SHORTEST_SUBSCRIBER,
    SipAddress,
    parse_sip,
)
from calls_mcp.tools.catalog import address_kind

if TYPE_CHECKING:
    from calls_mcp.guard.policy.numbering_plans import NumberFacts

_log = logging.getLogger(__name__)


_EMERGENCY_RULE = "destinations.emergency"
_EXIT_CODES = ("00", "011", "0011")
_UNUSABLE = "can't be checked, because the operator's list of numbers can't be read"
_REPAIR = (
    "Tell your user that the operator must fix this list. `calls-mcp policy check` and the log "
    "say what is wrong with it."
)
_HINT = "Ask your user for another number or address, or ask the operator to allow this one."


def object_to_destination(rules: Destinations, to: str) -> Iterator[Objection]:
    """Yield the objections of `rules` to calling `to`."""
    kind = address_kind(to)
    if kind == "phone number":
        yield from _object_to_number(rules, to)
    elif kind == "SIP address":
        yield from _object_to_sip(rules, to)
    elif kind != "client":
        reason = "`to` is an address that the policy can't check"
        yield Objection("destinations.twiml", reason, "Use a number, sip:name@host or client:name.")
    elif not matches_any(rules.allow_clients, _identity(to)):
        reason = "`to` is a client that is not allowed"
        yield Objection("destinations.allow_clients", reason, _HINT)


def pre_approves(rules: Destinations, to: str) -> bool:
    """Return whether `to` may be called without confirmation, however it is spelled."""
    address = spelled = canonical(to)
    if address_kind(to) == "SIP address":
        sip = parse_sip(to)
        if sip is None or sip.is_rerouted or sip.is_doubtful:
            return False
        spelled = f"sip:{sip}".lower()
    return any(
        address.startswith(prefix := _prefix(known)) or spelled.startswith(prefix)
        if known.endswith("*")
        else address == canonical(known)
        for known in rules.pre_approved
        if address_kind(known) == address_kind(to)
    )


def _prefix(known: str) -> str:
    """Return what canonical spellings begin with if they match `known`, which ends with a *."""
    if address_kind(known) != "SIP address":
        return known[:-1]
    return f"sip:{known[:-1].partition(':')[2]}".lower()


def canonical(to: str) -> str:
    """Return the canonical spelling of a destination."""
    return _spelled(to, lambda facts: facts.canonical)


def party(to: str) -> str:
    """Return the party that a call to `to` rings, in canonical spelling, without extra digits.

    This is the number, if `to` is the SIP address of one.
    """
    whom = _spelled(to, lambda facts: facts.reached)
    return whom.removeprefix("sip:").partition("@")[0] if whom.startswith("sip:+") else whom


def _spelled(to: str, spelling: Callable[["NumberFacts"], str]) -> str:
    kind = address_kind(to)
    if kind == "phone number":
        return spelling(_look_up(to))
    if kind == "client":
        return f"client:{_identity(to)}"
    if kind == "SIP address" and (address := parse_sip(to)):
        return f"sip:{_spelled_user(address, spelling)}@{address.host}".lower()
    return to.lower()


def numbers_of(to: str) -> frozenset[str]:
    """Return the numbers with a country code that calling `to` may ring, in E.164 form."""
    kind = address_kind(to)
    if kind == "phone number":
        return frozenset({_look_up(to).reached})
    address = parse_sip(to) if kind == "SIP address" else None
    found = (each for number in (address.numbers if address else ()) for each in _called(number))
    return frozenset(each.reached for each in map(_look_up, found))


def is_premium_rate(number: str) -> bool:
    """Return whether calls to an E.164 number cost the caller more than usual."""
    return _look_up(number).type == "premium_rate"


def _called(number: str) -> Iterator[str]:
    """Yield what a number from a SIP address stands for, if it has its country code."""
    if number.startswith("+"):
        yield number
    yield from _abroad(number)


def _spelled_user(address: SipAddress, spelling: Callable[["NumberFacts"], str]) -> str:
    number = address.number or _only_number(address)
    if len(number) < SHORTEST_SUBSCRIBER:
        return address.user
    valid = (each for each in _international(number) if _look_up(each).is_valid)
    known = chain(valid, _with_extra_digits(number), _called(number))
    return next(map(spelling, map(_look_up, known)), number)


def _only_number(address: SipAddress) -> str:
    """Return the number with a country code in an address; empty unless there is exactly one."""
    known = [each for each in address.numbers if each[0] == "+" and _look_up(each).is_valid]
    return known[0] if len(known) == 1 else ""


def _international(number: str) -> tuple[str, ...]:
    """Return what a number from a SIP address may be with its country code."""
    if number.startswith("+"):
        return (number,)
    return (*_abroad(number), f"+{number}")


def _with_extra_digits(number: str) -> Iterator[str]:
    """Yield what a number from a SIP address may be, if more than a valid number was dialed."""
    for each in _international(number):
        if _look_up(_look_up(each).reached).is_valid:
            yield each


def _abroad(number: str) -> Iterator[str]:
    """Yield what a number that begins with an exit code stands for."""
    for code in _EXIT_CODES:
        if number.startswith(code):
            yield f"+{number.removeprefix(code)}"


def _identity(client: str) -> str:
    return client.partition(":")[2].partition("?")[0]


def _object_to_sip(rules: Destinations, to: str) -> Iterator[Objection]:
    address = parse_sip(to)
    if address is None:
        reason = "`to` is a SIP address that can be understood in more than one way"
        hint = (
            "Write it plainly, as sip:name@host. Only X-… and User-to-User headers are allowed. "
            "Parameters can't contain spaces, and neither they nor headers any of @ , \" < >."
        )
        yield Objection("destinations.allow_sip", reason, hint)
        return
    for part in sorted(address.parts - address.numbers):
        if EMERGENCY.fullmatch(part):
            yield _emergency_part(part)
    if address.is_doubtful and rules.are_strict:
        yield _doubtful()
        return
    for number in sorted(address.numbers):
        is_part = number != address.user
        for objection in _object_to_sip_number(rules, number):
            is_emergency = objection.rule == _EMERGENCY_RULE
            yield _emergency_part(number) if is_part and is_emergency else objection
    if address.has_pause:
        yield _doubtful()
    patterns = [_lower_host(pattern) for pattern in rules.allow_sip]
    if not matches_any(patterns, "*" if address.is_rerouted else str(address)):
        reason = "`to` is a SIP address that is not allowed"
        yield Objection("destinations.allow_sip", reason, _HINT)


def _doubtful() -> Objection:
    reason = "`to` is a SIP address that may be dialed as a number, and it isn't certain which"
    hint = "Write it as sip:+NUMBER@host, with the country code."
    return Objection("destinations.allow_sip", reason, hint)


def _object_to_sip_number(rules: Destinations, number: str) -> Iterator[Objection]:
    if EMERGENCY.fullmatch(number):
        yield _emergency()
    elif number.startswith("+"):
        yield from _object_to_number(rules, number)
    elif short := [each for each in _abroad(number) if len(each) - 1 <= LONGEST_EMERGENCY]:
        for each in short:
            yield from _object_to_number(rules, each)
    elif len(number) >= SHORTEST_SUBSCRIBER:  # shorter ones are extensions
        yield from _object_to_bare_number(rules, number)


def _object_to_bare_number(rules: Destinations, digits: str) -> Iterator[Objection]:
    """Yield objections to the number in a SIP address that may lack its country code."""
    if not _describes_numbers(rules):
        return
    known = [number for number in _international(digits) if _look_up(number).is_valid]
    for number in known or _with_extra_digits(digits):
        yield from _object_to_number(rules, number)
    if known:
        return
    if rules.restrict_numbers:
        reason = "`to` is a SIP address whose number can't be checked without its country code"
        yield Objection("destinations.allow_sip", reason, "Write it with + and country code.")
    elif denied := _look_up_types(digits) & {*rules.deny_number_types}:
        reason = f"`to` may be a number of type {min(denied)}"
        hint = f"If it is a phone number, write it with + and country code. {_HINT}"
        yield Objection("destinations.deny_number_types", reason, hint)


def _object_to_number(rules: Destinations, number: str) -> Iterator[Objection]:
    digits = len(number) - 1
    if digits < SHORTEST_SUBSCRIBER:
        yield _emergency()
        return
    if not (digits <= LONGEST_EMERGENCY or _describes_numbers(rules)):
        return
    facts = _look_up(number)
    if facts.emergency:
        yield _emergency()
    for rule, reason in _mismatches(rules, number, facts):
        yield Objection(f"destinations.{rule}", f"`to` is {reason}", _HINT)
    yield from _object_to_listed(rules, facts)


def _object_to_listed(rules: Destinations, facts: "NumberFacts") -> Iterator[Objection]:
    """Yield what the lists of numbers say, or that they can't be read."""
    lists: tuple[tuple[str, str, Callable[[NumberList, NumberFacts], str]], ...] = (
        ("destinations.deny_file", rules.deny_file, _denial),
        ("destinations.allow_file", rules.allow_file, _lack_of_permission),
    )
    for rule, file, objection in lists:
        if not file:
            continue
        try:
            reason, hint = objection(load_numbers(Path(file)), facts), _HINT
        except FileError as wrong:
            _log.warning("No number can be called, because of %s: %s", rule, wrong)
            reason, hint = _UNUSABLE, _REPAIR
        if reason:
            yield Objection(rule, f"`to` {reason}", hint)


def _denial(denied: NumberList, facts: "NumberFacts") -> str:
    whole = (facts.number, facts.canonical, facts.reached, facts.with_trunk)
    is_denied = (
        any(map(denied.has_prefix, whole))
        or any(map(denied.has, facts.spellings))
        or any(map(denied.has, facts.shorter))
    )
    return "is on the do-not-call list" if is_denied else ""


def _lack_of_permission(allowed: NumberList, facts: "NumberFacts") -> str:
    is_allowed = any(map(allowed.has, facts.spellings)) or (
        allowed.has_prefix(facts.number) and allowed.has_prefix(facts.canonical)
    )
    return "" if is_allowed else "is not on the list of allowed numbers"


def _describes_numbers(rules: Destinations) -> bool:
    return rules.restrict_numbers or bool(rules.deny_number_types)


def _emergency() -> Objection:
    reason = "`to` is an emergency or service number, or too short to be a phone number"
    hint = "No setting allows it. Ask your user to check the number, or to dial it themselves."
    return Objection(_EMERGENCY_RULE, reason, hint)


def _emergency_part(number: str) -> Objection:
    reason = (
        f"`to` is a SIP address that a gateway may dial as {number}, which is an "
        "emergency number or too short to be a phone number"
    )
    hint = "Ask your user for another address; no setting allows this one."
    return Objection(_EMERGENCY_RULE, reason, hint)


def _mismatches(
    rules: Destinations, number: str, facts: "NumberFacts"
) -> Iterator[tuple[str, str]]:
    spellings = (number, facts.canonical, facts.reached)  # +44 0900… reaches +44 900…
    if any(spelling.startswith(rules.deny_prefixes) for spelling in spellings):
        yield "deny_prefixes", "a number with a denied prefix"
    if rules.allow_prefixes and not all(s.startswith(rules.allow_prefixes) for s in spellings):
        yield "allow_prefixes", "a number without an allowed prefix"
    if facts.regions & {*rules.deny_countries}:
        yield "deny_countries", "a number in a denied country"
    if rules.allow_countries and not _all_in(rules.allow_countries, facts.regions):
        yield "allow_countries", "a number outside the allowed countries"
    if facts.type in rules.deny_number_types:
        yield "deny_number_types", f"a number of type {facts.type}"


def _all_in(countries: Iterable[str], regions: frozenset[str]) -> bool:
    return bool(regions) and regions <= {*countries}


def _look_up(number: str) -> "NumberFacts":
    from calls_mcp.guard.policy.numbering_plans import look_up  # noqa: PLC0415  # 50 ms, if needed

    return look_up(number)


def _look_up_types(digits: str) -> frozenset[str]:
    from calls_mcp.guard.policy.numbering_plans import national_types  # noqa: PLC0415

    return national_types(digits)


def matches_any(patterns: Iterable[str], text: str) -> bool:
    """Return whether one of `patterns` (`*` any characters, `?` one) matches the whole `text`."""
    return any(_compiled(pattern).fullmatch(text) for pattern in patterns)


def allows_caller(patterns: Iterable[str], caller: str) -> bool:
    """Return whether one of `patterns` matches a caller ID. Only `*` alone matches an @.

    So +4930* allows numbers, but not SIP addresses that begin with +4930.
    """
    return any(
        pattern == "*" or _compiled(pattern, "[^@]").fullmatch(caller) for pattern in patterns
    )


@lru_cache
def _compiled(pattern: str, character: str = ".") -> re.Pattern[str]:
    wild = {"*": f"{character}*", "?": character}
    parts = (wild.get(part) or re.escape(part) for part in pattern)
    return re.compile("".join(parts), re.DOTALL)


def _lower_host(address: str) -> str:
    user, at, host = address.rpartition("@")
    return f"{user}{at}{host.lower()}"
