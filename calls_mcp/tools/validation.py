"""Validation of arguments, which finds all faults at once, before anything is sent."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from itertools import islice
from typing import cast
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator, FormatChecker

from calls_mcp.errors import KNOWN_ARGUMENT, NONE_OF_THEM, NOTHING, Fault, InvalidArguments
from calls_mcp.observability.redaction import MASK, first_invisible, quoted
from calls_mcp.tools.catalog import (
    INSTRUCTIONS,
    Action,
    AddressKind,
    Json,
    Operation,
    Parameter,
    Rule,
    Schema,
    address_kind,
)
from calls_mcp.tools.humanize import counted, listed
from calls_mcp.tools.list_filters import filter_warnings, time_in_utc, utc
from calls_mcp.tools.suggestions import (
    instead_of_character,
    suggested_list,
    suggested_name,
    suggested_values,
)

FORMATS = FormatChecker(formats=())

_MAX_UNKNOWN_NAMES = 50  # reported
_LONGEST_GUESSED = 256  # characters
_LARGEST_SHOWN = 10**15
_MOST_ITEMS = 5  # of a list, shown
_RETURN = "&#13;"  # XML parsers read a bare one as a line feed
_LIKE_A_NUMBER = re.compile(r"[+(]?[0-9][0-9 ()./-]*")


@dataclass(frozen=True, slots=True)
class Arguments:
    """Valid arguments.

    `values` are for the API, by argument name; `own` are for this server. A text to speak is in
    both, in `values` as TwiML. `ignored` names the `values` that the API will ignore, and
    `warnings` says why.
    """

    operation: Operation
    values: Mapping[str, Json]
    own: Mapping[str, str] = field(default_factory=dict[str, str])
    ignored: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    @property
    def action(self) -> Action:
        """The main action of a change, as a user would name it."""
        effect = self.operation.effect
        if effect in ("place", "delete"):
            return "place" if effect == "place" else "delete"
        if "status" in self.values:
            return "hang_up"
        return "redirect" if self.values.keys() & INSTRUCTIONS else "modify"


def validate(operation: Operation, raw: Mapping[str, Json]) -> Arguments:
    """Return the arguments that a model sent, without empty ones that are optional.

    Raises:
        InvalidArguments: With all faults.
    """
    raw = _without_empty(operation, raw)
    unknown = (name for name in raw if name not in operation.parameters)
    meant = {name: suggested_name(operation, name) for name in islice(unknown, _MAX_UNKNOWN_NAMES)}
    # A misspelled name must not also be reported as a missing argument, but its value is checked.
    corrected = {right: raw[wrong] for wrong, right in meant.items() if right}
    understood = _without_empty(operation, corrected) | {**raw}
    faults = [
        *_unknown(meant),
        *_missing(operation, understood),
        *_wrong(operation, understood),
        *_broken_rules(operation, understood),
    ]
    if faults:
        raise InvalidArguments(faults)
    values = {name: _normal(operation.parameters[name], value) for name, value in raw.items()}
    own = {name for name in values if operation.parameters[name].location == "own"}
    texts = {n: str(values[n]) for n in own if operation.parameters[n].becomes}
    made = {operation.parameters[n].becomes: spoken(text) for n, text in texts.items()}
    ignored = dict(_ineffective(operation, raw))
    about_filters = filter_warnings(raw) if operation.returns == "calls" else ()
    return Arguments(
        operation=operation,
        values={name: value for name, value in values.items() if name not in own} | made,
        own={name: str(values[name]) for name in own},
        ignored=frozenset(ignored),
        warnings=(*(f"{name} {reason}" for name, reason in ignored.items()), *about_filters),
    )


def spoken(text: str) -> str:
    """Return TwiML that says exactly `text`, which has no control characters except whitespace."""
    escaped = escape(text, quote=False).replace("\r", _RETURN)
    return f"<Response><Say>{escaped}</Say></Response>"


@FORMATS.checks("http-url", raises=ValueError)
def _is_http_url(value: object) -> bool:
    if not isinstance(value, str):
        return True
    url = urlsplit(value)
    return bool(url.hostname) and url.port != 0 and "\\" not in value


@FORMATS.checks("date-or-time", raises=(ValueError, OverflowError))
def _is_date_or_time(value: object) -> bool:
    return not isinstance(value, str) or bool(utc(value))


@cache
def _validator(parameter: Parameter) -> Draft202012Validator:
    checked: Schema = {"allOf": [parameter.schema, parameter.type.asserts]}
    return Draft202012Validator(checked, format_checker=FORMATS)


def _without_empty(operation: Operation, raw: Mapping[str, Json]) -> dict[str, Json]:
    """Return the arguments without empty optional ones, since some hosts send every argument."""
    optional = {name for name, parameter in operation.parameters.items() if not parameter.required}
    return {name: v for name, v in raw.items() if name not in optional or v not in (None, "", [])}


def _unknown(meant: Mapping[str, str]) -> Iterator[Fault]:
    for name, nearest in meant.items():
        yield Fault(
            path=f"/{_pointed(quoted(name, 64)[1:-1])}",
            expected=KNOWN_ARGUMENT,
            received=quoted(name, 64),  # not the value, which may be a secret
            did_you_mean=nearest or None,
        )


def _pointed(name: str) -> str:
    """Return a name as a step of a JSON Pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _missing(operation: Operation, raw: Mapping[str, Json]) -> Iterator[Fault]:
    for parameter in operation.parameters.values():
        if parameter.required and parameter.name not in raw:
            yield Fault(
                path=f"/{parameter.name}",
                expected=parameter.expected,
                received=NOTHING,
                example=parameter.example,
            )


def _wrong(operation: Operation, raw: Mapping[str, Json]) -> Iterator[Fault]:
    rules = _rules_for_kind(operation, raw)
    for name, value in raw.items():
        parameter, rule = operation.parameters.get(name), rules.get(name)
        if parameter is None:
            continue
        instead, details = _instead(operation, name, value, rule), _details(operation, name, value)
        if instead or details or not _is_right(parameter, value):
            yield _fault(parameter, value, rule, (instead or parameter.expected) + details)


def _instead(operation: Operation, name: str, value: Json, rule: Rule | None) -> str:
    """Return what was expected because of the other arguments."""
    if rule and value and _breaks(rule, value):
        return _expected_by(rule)
    other = _inequality(operation, name, value)
    return f"{other} instead, with the plain date" if other else ""


def _details(operation: Operation, name: str, value: Json) -> str:
    """Return which characters of a value are wrong, and whether there are too many."""
    parameter, details = operation.parameters[name], ""
    if unseen := _first_invisible(parameter, value):
        details = f", without invisible characters (found U+{ord(unseen):04X})"
    elif instead := _instead_of_character(parameter, value):
        details = f", {instead}"
    if excess := _excess(operation, parameter, value):
        details += f"; make it {counted(excess, 'character')} shorter"
    return details


def _excess(operation: Operation, parameter: Parameter, value: Json) -> int:
    """Return how many characters a text to speak is too long by, once it is TwiML."""
    if not parameter.becomes or not isinstance(value, str):
        return 0
    most = operation.parameters[parameter.becomes].schema["maxLength"]
    return max(0, len(spoken(value)) - cast("int", most))


def _instead_of_character(parameter: Parameter, value: Json) -> str:
    is_url = parameter.type.asserts.get("format") == "http-url"
    return instead_of_character(value.strip()) if is_url and isinstance(value, str) else ""


def _inequality(operation: Operation, name: str, value: Json) -> str | None:
    """Return the filter that is meant by a value such as `<=2026-01-31`."""
    sign = value.strip()[:1] if isinstance(value, str) else ""
    other = name + {"<": "_before", ">": "_after"}.get(sign, "")
    return other if other != name and other in operation.parameters else None


def _rules_for_kind(operation: Operation, raw: Mapping[str, Json]) -> dict[str, Rule]:
    """Return the rule that restricts an argument because of the kind of another one."""
    return {
        name: rule
        for rule in operation.rules
        if rule.rule in ("must_match_kind", "no_host_for_kind")
        and _kind_meant(operation.parameters[rule.given], raw.get(rule.given)) == rule.kind
        for name in rule.parameters
    }


def _kind_meant(parameter: Parameter, value: Json) -> AddressKind | None:
    """Return the kind of an address, even an invalid one, so that it does not hide other faults."""
    kind = address_kind(value) or address_kind(_nearest_value(parameter, value, None))
    is_number = _LIKE_A_NUMBER.fullmatch(_text(value).strip())
    return kind or ("phone number" if is_number else None)


def _breaks(rule: Rule | None, value: Json) -> bool:
    if rule is None or not isinstance(value, str):
        return False
    return "@" in value if rule.rule == "no_host_for_kind" else address_kind(value) != rule.kind


def _expected_by(rule: Rule) -> str:
    wanted = (
        "phone number or a user name without @" if rule.rule == "no_host_for_kind" else rule.kind
    )
    return f"a {wanted}, because {rule.given} is a {rule.kind}"


def _broken_rules(operation: Operation, raw: Mapping[str, Json]) -> Iterator[Fault]:
    for rule in operation.rules:
        given = [name for name in rule.parameters if name in raw]
        first = operation.parameters[rule.parameters[0]]
        if rule.rule == "needs_one_of" and not given:
            yield Fault(
                path=f"/{first.name}",
                expected=rule.expected,
                received=NONE_OF_THEM,
                example=first.example,
            )
        elif rule.rule == "needs" and rule.given in raw and not given:
            expected = f"{first.expected}, because {rule.given} is given"
            yield Fault(f"/{first.name}", expected, NOTHING, example=first.example)
        elif rule.rule == "excludes" and (both := _excluding(rule, given, raw)):
            name, *others = both
            received = f"{listed(both)} together"
            expected = f"{name} alone, or no {name}"
            yield Fault(f"/{name if rule.given else others[-1]}", expected, received)


def _excluding(rule: Rule, given: Sequence[str], raw: Mapping[str, Json]) -> Sequence[str]:
    """Return the given arguments of which the first excludes the others; none if all fit."""
    if rule.given:
        return [rule.given, *given] if given and rule.given in raw else []
    return given if len(given) > 1 else []


def _ineffective(operation: Operation, raw: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """Yield what the API will ignore, and why. An ignored argument counts as not given."""
    active = dict(raw)
    for rule in operation.rules:
        reason = _reason(rule, active)
        for name in rule.parameters:
            if reason and name in active:
                del active[name]
                yield name, reason


def _reason(rule: Rule, active: Mapping[str, Json]) -> str | None:
    given = active.get(rule.given)
    if rule.rule == "ignored_when" and rule.given in active:
        return f"is ignored because {rule.given} is given"
    if rule.rule == "no_effect_without" and given in (None, False):
        return f"has no effect without {rule.given}"
    if rule.rule == "only_for_kind" and address_kind(given) != rule.kind:
        return f"has no effect because {rule.given} is not a {rule.kind}"
    return None


def _normal(parameter: Parameter, value: Json) -> Json:
    """Return 60.0 as 60, because the API does not accept 60.0, and a time in UTC."""
    if isinstance(value, str) and parameter.type.asserts.get("format") == "date-or-time":
        return time_in_utc(parameter.name, value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _first_invisible(parameter: Parameter, value: Json) -> str:
    texts = value if isinstance(value, list) else [value]
    allowed = "\t\n\r" if parameter.type.multiline else ""
    return "".join(first_invisible(t, allowed) for t in texts if isinstance(t, str))[:1]


def _fault(parameter: Parameter, value: Json, rule: Rule | None, expected: str = "") -> Fault:
    can_guess = not (parameter.secret or parameter.type.multiline)
    return Fault(
        path=f"/{parameter.name}",
        expected=expected or parameter.expected,
        received=_received(parameter, value),
        example=parameter.example,
        did_you_mean=_nearest_value(parameter, value, rule) if can_guess else None,
    )


def _received(parameter: Parameter, value: Json) -> str:
    """Return a short description of a value of any size, without secrets."""
    if parameter.secret and value is not None:
        return MASK
    if value in ("", []):
        return f"{json.dumps(value)} (empty)"
    if isinstance(value, str):
        return quoted(value, 80)
    if isinstance(value, list):
        more = ["…"] if len(value) > _MOST_ITEMS else []
        return f"[{', '.join([*map(_item, value[:_MOST_ITEMS]), *more])}]"
    return _item(value)


def _item(value: Json) -> str:
    match value:
        case str():
            return quoted(value, 40)
        case None | bool():
            return json.dumps(value)
        case int() | float() if abs(value) < _LARGEST_SHOWN:
            return str(value)
        case float() if value != value:  # noqa: PLR0124  # true of NaN only
            return "NaN"
        case int() | float():
            return "a number that is far out of range"
        case _:
            return "a list" if isinstance(value, list) else "an object"


def _nearest_value(parameter: Parameter, value: Json, rule: Rule | None) -> Json:
    for candidate in _candidates(parameter, value):
        is_right = _is_right(parameter, candidate) and not _breaks(rule, candidate)
        if is_right and candidate != value:
            return candidate
    return None


def _candidates(parameter: Parameter, value: Json) -> Iterator[Json]:
    """Yield what a value may be meant to be."""
    items = [item for item in value if isinstance(item, str)] if isinstance(value, list) else None
    if items is not None and len(items) != len(cast("list[Json]", value)):
        return
    text = ",".join(items) if items is not None else _text(value).strip()
    if not text or len(text) > _LONGEST_GUESSED:
        return
    if parameter.schema["type"] == "array":
        yield suggested_list(parameter, text if items is None else items)
    else:
        yield from suggested_values(parameter, text)


def _text(value: Json) -> str:
    """Return a value as text, to guess what was meant; nothing if there is nothing to guess."""
    match value:
        case str():
            return value
        case int() if not isinstance(value, bool) and abs(value) < _LARGEST_SHOWN:
            return str(value)
        case _:
            return ""


def _is_right(parameter: Parameter, value: Json) -> bool:
    if not _has_right_type(parameter.schema, value):  # jsonschema fails on some of these
        return False
    valid: bool = _validator(parameter).is_valid(value)  # pyright: ignore[reportUnknownMemberType]  # its second overload is untyped
    return valid and not _first_invisible(parameter, value)


def _has_right_type(schema: Schema, value: Json) -> bool:
    if isinstance(value, list):
        return schema["type"] == "array" and all(isinstance(item, str) for item in value)
    if isinstance(value, int | float) and abs(value) > _LARGEST_SHOWN:
        return False
    return not isinstance(value, dict)
