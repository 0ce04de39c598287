"""Rules about TwiML: its URLs, the parties it dials, recording, and unknown elements."""

import re
from collections.abc import Iterator

from calls_mcp.guard.policy.destinations import allows_caller, object_to_destination
from calls_mcp.guard.policy.rules import (
    CallerIds,
    Caps,
    Destinations,
    Objection,
    Policy,
    Urls,
)
from calls_mcp.guard.policy.sip_address import HARMLESS_HEADER, SEPARATORS, parse_sip
from calls_mcp.guard.policy.urls import object_to_url
from calls_mcp.guard.twiml_document import PARTIES, Kind, Value, read_values
from calls_mcp.observability.redaction import quoted

_SECONDS = re.compile(r"0*[1-9][0-9]{0,8}")
_NUMBER = re.compile(r"\+[1-9][0-9]{1,14}")
_NOT_RECORDING = frozenset({"false", "do-not-record"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SHORT_CODE = re.compile(r"[0-9]{4,6}")  # longer ones may be national numbers
_CALLER = re.compile(r"\+[1-9][0-9]{1,14}|client:[!-~]+|(sips?:)?[^\s:@]+@[!-~]+")
_ADDRESSED = PARTIES | {"message_to"}
_DOUBTFUL: frozenset[Kind] = frozenset({"keys", "malformed", "unknown"})
_UNCHOSEN = _DOUBTFUL | {"url", "websocket_url"}
_LONGEST_SHOWN = 64  # characters
_MAX_PARTIES = 20  # twice what one <Dial> can have


def object_to_twiml(policy: Policy, twiml: str, *, is_limited: bool) -> Iterator[Objection]:
    """Yield the objections of `policy` to TwiML in an argument.

    `is_limited` says whether the call has a time limit, so that what it dials ends with it.
    """
    found = read_values(twiml)
    if sum(map(_addresses, found)) > _MAX_PARTIES:
        reason = f"twiml calls or messages more than {_MAX_PARTIES} numbers and addresses"
        yield Objection("destinations.twiml", reason, "Use fewer of them.")
        return
    for value in found:
        if not (is_limited and value.kind == "time_limit" and value.is_default):
            yield from _object_to_value(policy, value)


def _addresses(value: Value) -> int:
    """Return how many numbers and addresses must be checked, because each takes time."""
    address = parse_sip(value.text) if value.kind == "sip_address" else None
    return max(1, len(address.numbers)) if address else int(value.kind in _ADDRESSED)


def dialed(twiml: str) -> list[str]:
    """Return the parties that TwiML calls, as `to` would name them; none if it is malformed."""
    return [_address(value) for value in read_values(twiml) if value.kind in PARTIES]


def messaged(twiml: str) -> list[str]:
    """Return the numbers that TwiML sends messages to; none if it is malformed."""
    found = (value for value in read_values(twiml) if value.kind == "message_to")
    return [_address(value) for value in found if not value.is_default]


def records(twiml: str) -> bool:
    """Return whether TwiML records or transcribes the call; False if it is malformed."""
    return any(_is_recording(value) for value in read_values(twiml))


def may_reach_others(rules: Urls, twiml: str) -> bool:
    """Return whether TwiML may reach parties that it does not name.

    It may if it is malformed or unknown, presses keys, or has a URL that the operator did not
    choose.
    """
    doubtful = _UNCHOSEN if rules.allow_any_host else _DOUBTFUL
    return any(value.kind in doubtful for value in read_values(twiml))


def _object_to_value(policy: Policy, value: Value) -> Iterator[Objection]:
    match value.kind:
        case "malformed":
            reason = f"twiml is not well-formed TwiML ({value.text})"
            hint = "Send one <Response> element of well-formed XML, without DOCTYPE or entities."
            yield Objection("twiml.well_formed", reason, hint)
        case "unknown":
            yield from _object_to_unknown(policy, value)
        case "url" | "websocket_url":
            scheme = "http" if value.kind == "url" else "ws"
            yield from object_to_url(
                policy.urls, f"the URL in twiml ({value.place})", value.text, scheme
            )
        case "client" | "message_to" | "other_party" | "phone_number" | "sip_address":
            yield from _object_to_party(policy.destinations, value)
        case "caller_id":
            yield from _object_to_caller(policy.caller_ids, value)
        case "header_name" | "header_value":
            yield from _object_to_header(value)
        case "recording":
            yield from _object_to_recording(policy.caps, value)
        case "time_limit" | "timeout":
            yield from _object_to_seconds(policy.caps, value)
        case "keys" | "plain" | "speech":
            pass


def _object_to_header(value: Value) -> Iterator[Objection]:
    shown = quoted(value.text, _LONGEST_SHOWN)
    if value.kind == "header_name" and not HARMLESS_HEADER.fullmatch(value.text.lower()):
        reason = f"twiml sends the SIP header {shown}, and only X-… and User-to-User are allowed"
        yield Objection("destinations.twiml", reason, "Leave this <Header> out.")
    if value.kind == "header_value" and _CONTROL.search(value.text):
        reason = f"twiml sends a SIP header with the value {shown}, which has control characters"
        yield Objection("destinations.twiml", reason, "Leave them out.")


def _object_to_recording(caps: Caps, value: Value) -> Iterator[Objection]:
    if not caps.record and _is_recording(value):
        reason = f"twiml has {_named(value.place)}, and recording calls is not allowed"
        hint = "Leave recording out, or ask the operator to allow it."
        yield Objection("caps.record", reason, hint)


def _is_recording(value: Value) -> bool:
    return value.kind == "recording" and value.text.lower() not in _NOT_RECORDING


def _object_to_unknown(policy: Policy, value: Value) -> Iterator[Objection]:
    if policy.twiml.unknown:
        return
    place = quoted(value.place, _LONGEST_SHOWN)[1:-1]
    what = f"the text in {place}" if value.text and value.place[0] == "<" else _named(place)
    reason = f"twiml has {what}, which the policy can't check"
    hint = (
        "Check the spelling (XML is case-sensitive) and position of the element or attribute, or "
        "ask the operator to allow unknown TwiML."
    )
    yield Objection("twiml.unknown", reason, hint)


def _named(place: str) -> str:
    """Return a place with its kind, because `record of <Dial>` alone sounds like a record."""
    return place if place.startswith(("<", "the default ")) else f"the attribute {place}"


def _object_to_party(rules: Destinations, value: Value) -> Iterator[Objection]:
    address, shown = _address(value), quoted(value.text, _LONGEST_SHOWN)
    if value.kind == "other_party":
        if rules.restrict_parties:
            reason = f"twiml dials {shown} by {value.place}, and the policy can't check who that is"
            yield Objection("destinations.twiml", reason, "Dial a number or an address instead.")
        return
    if value.is_default:
        reason = "twiml sends a message and does not say to which number"
        yield Objection("destinations.twiml", reason, "Add the attribute `to`.")
        return
    if value.kind == "message_to" and _SHORT_CODE.fullmatch(address):
        if rules.restrict_numbers:
            reason = f"twiml sends a message to {shown}, a short code that no rule can check"
            yield Objection("destinations.twiml", reason, "Use a number with + and country code.")
        return
    verb = "sends a message to" if value.kind == "message_to" else "dials"
    if value.kind in ("message_to", "phone_number") and not _NUMBER.fullmatch(address):
        reason = f"twiml {verb} {shown}, which is not in E.164 form"
        hint = "Write a number with + and country code."
        if value.kind == "phone_number":
            hint += " SIP addresses must be in <Sip>, and clients in <Client>."
        yield Objection("destinations.twiml", reason, hint)
        return
    if value.kind == "sip_address" and not address.lower().startswith(("sip:", "sips:")):
        reason = f"twiml dials {shown}, which is not a SIP address"
        yield Objection("destinations.twiml", reason, "Write the SIP address as sip:name@host.")
        return
    for objection in object_to_destination(rules, address):
        reason = f"twiml {verb} {shown}, which {objection.reason.removeprefix('`to` ')}"
        yield Objection(objection.rule, reason, objection.hint)


def _object_to_caller(rules: CallerIds, value: Value) -> Iterator[Objection]:
    is_listed = value.text in rules.allow
    is_allowed = _CALLER.fullmatch(value.text) and allows_caller(rules.allow, value.text)
    if rules.allow and not (is_listed or is_allowed):
        shown = quoted(value.text, _LONGEST_SHOWN)
        reason = f"twiml uses the caller ID {shown}, which is not allowed"
        hint = f"Leave {value.place} out, or ask the operator to allow it."
        yield Objection("caller_ids.allow", reason, hint)


def _object_to_seconds(caps: Caps, value: Value) -> Iterator[Objection]:
    rule = f"caps.{value.kind}"
    most = caps.time_limit if value.kind == "time_limit" else caps.timeout
    if not most:
        return
    name = value.place.partition(" of ")[0].removeprefix("the default ")
    hint = f"Set {name} to {most} or less."
    if not _SECONDS.fullmatch(value.text):
        shown = quoted(value.text, _LONGEST_SHOWN)
        reason = f"twiml has {shown} as {value.place}, which is not a positive number of seconds"
        yield Objection(rule, reason, hint)
    elif int(value.text) > most:
        reason = f"{value.place} in twiml is {value.text} seconds, and the limit is {most}"
        yield Objection(rule, reason, hint)


def _address(value: Value) -> str:
    match value.kind:
        case "message_to" | "phone_number":
            return SEPARATORS.sub("", value.text.removeprefix("whatsapp:"))
        case "client":
            return f"client:{value.text.removeprefix('client:')}"
        case _:
            return value.text
