"""A `Policy` in plain sentences, for the person whose rules they are."""

from collections.abc import Iterable, Iterator
from dataclasses import fields

from calls_mcp.guard.policy.rules import (
    Caps,
    Confirmations,
    Counts,
    Destinations,
    Policy,
    Requirement,
)

_ACTIONS = {
    "place": "Placing a call",
    "redirect": "Redirecting a live call to other instructions",
    "hang_up": "Hanging up",
    "modify": "Any other change of a live call",
    "delete": "Deleting the record of a call",
}
_REQUIREMENTS: dict[Requirement, str] = {
    "never": "needs no confirmation",
    "confirm": "is confirmed by the user first",
    "require_human": "is confirmed first by a human whom the client asks, or by the operator",
    "operator": "is approved first by the operator, outside of the conversation",
    "deny": "is refused",
}
_GISTS: dict[Requirement, str] = {
    "never": "Needs no confirmation",
    "confirm": "Confirmed by the user first",
    "require_human": "Confirmed by a human whom the client asks, or by the operator",
    "operator": "Approved by the operator first",
    "deny": "Refused",
}
_SPANS = {
    "calls_per_minute": "calls a minute",
    "calls_per_hour": "calls an hour",
    "calls_per_day": "calls a day",
    "in_flight": "calls at the same time",
}


def explain(policy: Policy) -> list[str]:
    """Return what `policy` means, a sentence a rule, section by section."""
    return [
        *_confirmations(policy.confirm),
        *_destinations(policy.destinations),
        _among("The caller id", policy.caller_ids.allow, "may be any that the API accepts"),
        _among("The account", policy.accounts.allow, "may be any that the credentials reach"),
        *_links(policy),
        *_caps(policy.caps),
    ]


def summary(policy: Policy) -> tuple[str, ...]:
    """Return `policy` in a few lines: what changes need, who may be called, how often."""
    rules = policy.confirm
    needs: dict[Requirement, list[str]] = {}
    for section in fields(rules):
        needs.setdefault(getattr(rules, section.name), []).append(section.name.replace("_", " "))
    return (
        *(f"{_GISTS[need]}: {', '.join(names)}." for need, names in needs.items()),
        *_destinations(policy.destinations),
        _counts("In all", policy.caps),
    )


def _confirmations(rules: Confirmations) -> Iterator[str]:
    for section in fields(rules):
        requirement: Requirement = getattr(rules, section.name)
        yield f"{_ACTIONS[section.name]} {_REQUIREMENTS[requirement]}."


def _destinations(rules: Destinations) -> Iterator[str]:
    yield "Emergency numbers, and numbers too short to be a subscriber's, are never called."
    yield from _if_any("Only numbers that begin with {} are called.", rules.allow_prefixes)
    yield from _if_any("Numbers that begin with {} are refused.", rules.deny_prefixes)
    yield from _if_any("Only numbers in {} are called.", rules.allow_countries)
    yield from _if_any("Numbers in {} are refused.", rules.deny_countries)
    yield from _if_any("Numbers of the type {} are refused.", rules.deny_number_types)
    yield _patterns("SIP addresses", rules.allow_sip)
    yield _patterns("Clients", rules.allow_clients)
    yield from _if_any(
        "Calls to {} need no confirmation, unless placing calls is denied.", rules.pre_approved
    )


def _links(policy: Policy) -> Iterator[str]:
    secure = "https" if policy.urls.https_only else "http or https"
    if policy.urls.any_host:
        hosts = "any host on the public internet"
    else:
        hosts = _listed(policy.urls.hosts) if policy.urls.hosts else "no host at all"
    yield f"URLs may lead to {hosts}, by {secure}."
    if not policy.twiml.inline:
        yield "TwiML is refused as an argument."
        return
    yield "TwiML may be given as an argument, if it is well-formed and has no DOCTYPE."
    unknown = "not checked" if policy.twiml.unknown else "refused"
    yield f"Elements and attributes of TwiML that the server does not know are {unknown}."
    yield (
        "The same rules apply to the URLs, numbers, caller IDs and recording in TwiML, "
        "but not to TwiML at a URL."
    )


def _caps(caps: Caps) -> Iterator[str]:
    lasts = f"lasts at most {caps.time_limit} seconds" if caps.time_limit else "may last any time"
    yield f"A call {lasts} and rings for at most {caps.timeout}."
    yield f"Calls may {'be' if caps.record else 'not be'} recorded."
    yield _counts("In all", caps)
    yield _counts("Each principal", caps.principal)
    yield _rates(caps)
    if caps.same_number_seconds:
        yield (
            f"A number is called again within {caps.same_number_seconds} seconds only if that is "
            "confirmed anew."
        )
    else:
        yield "A number may be called again at once."


def _counts(whose: str, counts: Counts) -> str:
    limits = [(getattr(counts, name), words) for name, words in _SPANS.items()]
    told = [f"{limit} {words}" for limit, words in limits if limit]
    return f"{whose}: {'at most ' + ', '.join(told) if told else 'any number of calls'}."


def _rates(caps: Caps) -> str:
    """Return what may be invoked in a minute, whether or not it comes to anything."""
    reads, changes = (
        f"{limit} {kind}" if limit else f"any number of {kind}"
        for limit, kind in ((caps.reads_per_minute, "reads"), (caps.changes_per_minute, "changes"))
    )
    return f"Each principal may try {reads} and {changes} a minute."


def _among(what: str, allowed: tuple[str, ...], otherwise: str) -> str:
    return f"{what} must be {_listed(allowed)}." if allowed else f"{what} {otherwise}."


def _patterns(what: str, patterns: tuple[str, ...]) -> str:
    if not patterns:
        return f"{what} are never called."
    if "*" in patterns:
        return f"{what} may all be called."
    return f"{what} are called only if they match {_listed(patterns)}."


def _if_any(sentence: str, names: Iterable[str]) -> Iterator[str]:
    if names:
        yield sentence.format(_listed(names))


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
