"""Explain a `Policy` in plain sentences."""

from collections.abc import Iterable, Iterator
from dataclasses import fields

from calls_mcp.guard.policy.rules import (
    ALWAYS,
    Caps,
    ConfirmRules,
    CountryHours,
    Counts,
    Exceptional,
    Hours,
    Policy,
    Requirement,
)
from calls_mcp.tools.humanize import counted, duration

_ACTIONS = {
    "place": "Placing a call",
    "redirect": "Redirecting a live call to other instructions",
    "hang_up": "Hanging up",
    "modify": "Any other change to a live call",
    "delete": "Deleting the record of a call",
}
_REQUIREMENTS: dict[Requirement, str] = {
    "never": "needs no confirmation",
    "confirm": "needs the user's confirmation",
    "require_human": "needs the user's confirmation in the client, or the operator's approval",
    "operator": "needs the operator's approval",
    "deny": "is refused",
}
_EXCEPTIONS: dict[Exceptional, str] = {
    "allow": "is allowed as usual",
    "confirm": "needs at least the user's confirmation, even if the number is pre-approved",
    "require_human": _REQUIREMENTS["require_human"],
    "operator": _REQUIREMENTS["operator"],
    "deny": _REQUIREMENTS["deny"],
}
_HEADINGS: dict[Requirement, str] = {
    "never": "No confirmation",
    "confirm": "Confirmed by the user",
    "require_human": "Confirmed by the user in the client, or approved by the operator",
    "operator": "Approved by the operator",
    "deny": "Refused",
}
_SPANS = {
    "calls_per_minute": "a minute",
    "calls_per_hour": "an hour",
    "calls_per_day": "a day",
    "in_flight": "at a time",
}


def explain(policy: Policy) -> list[str]:
    """Return sentences that explain `policy`, one per rule."""
    topics = explain_by_topic(policy).values()
    return [*_confirmations(policy.confirm), *(each for topic in topics for each in topic)]


def explain_by_topic(policy: Policy) -> dict[str, list[str]]:
    """Return the sentences by topic, without those of `requirements`."""
    return {
        "Who can be called": [*_destinations(policy)],
        "Caller IDs and accounts": [
            _among("caller IDs", policy.caller_ids.allow, "that the API accepts"),
            _among("accounts", policy.accounts.allow, "that the credentials can use"),
        ],
        "Instructions and URLs": [*_links(policy)],
        "Calling hours": [*_hours(policy.hours)],
        "Limits": [*_caps(policy.caps)],
    }


def requirements(policy: Policy) -> list[tuple[str, Requirement, str]]:
    """Return each kind of change, its value in the policy, and what that means."""
    needs = ((name, getattr(policy.confirm, name)) for name in _ACTIONS)
    return [(_ACTIONS[name], need, _REQUIREMENTS[need]) for name, need in needs]


def summary(policy: Policy) -> tuple[str, ...]:
    """Return the main rules of `policy` in a few lines."""
    rules = policy.confirm
    needs: dict[Requirement, list[str]] = {}
    for section in fields(rules):
        needs.setdefault(getattr(rules, section.name), []).append(section.name.replace("_", " "))
    return (
        *(f"{_HEADINGS[need]}: {', '.join(names)}." for need, names in needs.items()),
        *_destinations(policy),
        _counts("In total", policy.caps),
    )


def _confirmations(rules: ConfirmRules) -> Iterator[str]:
    for section in fields(rules):
        requirement: Requirement = getattr(rules, section.name)
        yield f"{_ACTIONS[section.name]} {_REQUIREMENTS[requirement]}."


def _destinations(policy: Policy) -> Iterator[str]:
    rules = policy.destinations
    yield "Emergency numbers and numbers too short to be a phone number are never called."
    yield from _if_any("Only numbers that begin with {} can be called.", rules.allow_prefixes)
    yield from _if_any("Numbers that begin with {} are refused.", rules.deny_prefixes)
    yield from _if_any("Only numbers in {} can be called.", rules.allow_countries)
    yield from _if_any("Numbers in {} are refused.", rules.deny_countries)
    yield from _if_any("Numbers of type {} are refused.", rules.deny_number_types)
    if rules.allow_file:
        yield "Only numbers on the list of allowed numbers (allow_file) can be called."
    if rules.deny_file:
        yield "Numbers on the do-not-call list (deny_file) are refused."
    yield _patterns("SIP addresses", rules.allow_sip)
    yield _patterns("clients (client:name)", rules.allow_clients)
    if policy.confirm.place not in ("operator", "deny"):
        with_url = "use a URL, " if policy.urls.allow_any_host else ""
        yield from _if_any(
            f"Calls to {{}} need no confirmation, unless they {with_url}press keys, have an "
            "application_sid, or dial other numbers in TwiML.",
            rules.pre_approved,
        )


def _links(policy: Policy) -> Iterator[str]:
    secure = "https" if policy.urls.https_only else "http or https"
    if not policy.urls.hosts:
        yield "URLs are not allowed."
    else:
        hosts = "" if policy.urls.allow_any_host else f" on {_listed(policy.urls.hosts)}"
        yield f"Only {secure} URLs{hosts} are allowed."
    if not policy.twiml.inline:
        yield "The arguments twiml and say are not allowed."
        return
    yield "TwiML is allowed as an argument if it is well-formed and has no DOCTYPE."
    unknown = "not checked" if policy.twiml.unknown else "refused"
    yield f"Unknown elements and attributes in TwiML are {unknown}."
    yield (
        "The same rules apply to the URLs, numbers, caller IDs, recording, time limits and "
        "timeouts in TwiML, but not to TwiML at a URL."
    )


def _hours(rules: Hours) -> Iterator[str]:
    outside = f"a call {_EXCEPTIONS[rules.outside or 'allow']}"
    match _week(rules):
        case "at any time":
            yield "Numbers can be called at any time of the day."
        case "never":
            yield f"All times count as outside calling hours, so {outside}."
        case hours:
            yield f"Numbers can be called {hours} (their local time)."
            yield f"At other times, {outside}."
    for country in rules.countries:
        yield f"In {country}, {_hours_in_country(rules.of(country))}."
    if rules.unknown != "allow":
        yield f"If the local time is unknown, a call {_EXCEPTIONS[rules.unknown]}."


def _hours_in_country(rules: CountryHours) -> str:
    outside = f"a call {_EXCEPTIONS[rules.outside or 'allow']}"
    match _week(rules):
        case "at any time":
            return "numbers can be called at any time of the day"
        case "never":
            return f"all times count as outside calling hours, so {outside}"
        case hours:
            return f"numbers can be called {hours}; at other times, {outside}"


def _week(rules: CountryHours) -> str:
    daily, days = rules.daily or ALWAYS, dict(rules.own_days())
    own = [f"on {day}s {span}" for day, span in days.items() if span.end and span != daily]
    if own and not daily.end:
        return ", ".join(own)
    closed = [f"{day}s" for day, span in days.items() if not span.end and daily.end]
    hours = f"{daily}, but {', '.join(own)}" if own else str(daily)
    unless = "and not on" if own else "except on"
    return f"{hours}, {unless} {_listed(closed)}" if closed else hours


def _caps(caps: Caps) -> Iterator[str]:
    longest = duration(caps.time_limit) if caps.time_limit else "its time_limit (4 h by default)"
    yield f"A call lasts at most {longest} and rings for at most {duration(caps.timeout)}."
    yield f"Recording calls is {'' if caps.record else 'not '}allowed."
    yield _counts("In total", caps)
    yield _counts("Each principal", caps.principal)
    yield _rates(caps)
    if caps.same_number_seconds:
        within = duration(caps.same_number_seconds)
        yield f"A second call to the same number within {within} needs a confirmation."
    else:
        yield "The same number may be called again immediately."
    often = ((caps.same_number_per_day, "a day"), (caps.same_number_per_week, "a week"))
    if any(most for most, _ in often):
        told = (f"{counted(most, 'call')} {span}" for most, span in often if most)
        yield f"The same number gets at most {' and '.join(told)}."


def _counts(whose: str, counts: Counts) -> str:
    limits = [(getattr(counts, name), span) for name, span in _SPANS.items()]
    told = [f"{counted(limit, 'call')} {span}" for limit, span in limits if limit]
    if counts.minutes_per_day:
        told.append(f"{counts.minutes_per_day} min of talk time a day")
    return f"{whose}: {'at most ' + ', '.join(told) if told else 'no limit on calls'}."


def _rates(caps: Caps) -> str:
    """Return the rate limits on tool calls, which count failed ones too."""
    reads, changes = (
        f"at most {counted(limit, kind)}" if limit else f"any number of {kind}s"
        for limit, kind in ((caps.reads_per_minute, "read"), (caps.changes_per_minute, "change"))
    )
    return f"Each principal may attempt {reads} and {changes} a minute."


def _among(what: str, allowed: tuple[str, ...], otherwise: str) -> str:
    if allowed:
        return f"Allowed {what}: {', '.join(allowed)}."
    return f"All {what} {otherwise} are allowed."


def _patterns(what: str, patterns: tuple[str, ...]) -> str:
    if not patterns:
        return f"{what[0].upper()}{what[1:]} can't be called."
    if "*" in patterns:
        return f"All {what} can be called."
    return f"Only {what} that match {_listed(patterns)} can be called."


def _if_any(sentence: str, names: Iterable[str]) -> Iterator[str]:
    if names:
        yield sentence.format(_listed(names))


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
