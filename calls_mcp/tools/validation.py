"""Validation of arguments: every fault is found at once, before anything is sent."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from functools import cache
from itertools import islice
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator, FormatChecker

from calls_mcp.errors import Fault, InvalidArguments
from calls_mcp.observability.redaction import MASK, first_invisible, quoted
from calls_mcp.tools.catalog import Json, Operation, Parameter, Rule, Schema, address_kind
from calls_mcp.tools.schema import checked_schema

FORMATS = FormatChecker(formats=())

_MAX_UNKNOWN_NAMES = 50  # reported; more of them are no honest mistake
_LONGEST_GUESSED = 256  # characters; nobody mistypes more than that by accident
_LARGEST_SHOWN = 10**15
_LONGEST_NATIONAL_NUMBER = 10  # digits


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments that are valid by the catalog.

    `values` are for the API, by argument name; `own` are for this server. The API will ignore those
    of `values` that are in `ignored`; `warnings` say so, and why.
    """

    operation: Operation
    values: Mapping[str, Json]
    own: Mapping[str, str] = field(default_factory=dict[str, str])
    ignored: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


def validate(operation: Operation, raw: Mapping[str, Json]) -> Arguments:
    """Return the arguments that a model sent. A null is an optional argument that is not given.

    Raises:
        InvalidArguments: With every fault there is.
    """
    raw = {name: value for name, value in raw.items() if not _is_omitted(operation, name, value)}
    unknown = (name for name in raw if name not in operation.parameters)
    meant = {name: _meant(operation, name) for name in islice(unknown, _MAX_UNKNOWN_NAMES)}
    # A misspelt name is one fault, not also a missing argument, and its value may be another.
    understood = {right: raw[wrong] for wrong, right in meant.items() if right} | {**raw}
    faults = [
        *_unknown(operation, meant),
        *_missing(operation, understood),
        *_wrong(operation, understood),
        *_broken_rules(operation, understood),
    ]
    if faults:
        raise InvalidArguments(faults)
    values = {name: _normal(value) for name, value in raw.items()}
    own = {name for name in values if operation.parameters[name].location == "own"}
    ignored = dict(_ineffective(operation, raw))
    return Arguments(
        operation=operation,
        values={name: value for name, value in values.items() if name not in own},
        own={name: str(values[name]) for name in own},
        ignored=frozenset(ignored),
        warnings=tuple(f"{name} {reason}" for name, reason in ignored.items()),
    )


@FORMATS.checks("http-url", raises=ValueError)
def _is_http_url(value: object) -> bool:
    if not isinstance(value, str):
        return True
    url = urlsplit(value)
    return bool(url.hostname) and url.port != 0 and "\\" not in value


@FORMATS.checks("date-or-time", raises=ValueError)
def _is_date_or_time(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.fromisoformat(value))


@cache
def _validator(parameter: Parameter) -> Draft202012Validator:
    return Draft202012Validator(checked_schema(parameter), format_checker=FORMATS)


def _is_omitted(operation: Operation, name: str, value: Json) -> bool:
    """Whether it is a null for what is optional: some hosts make every argument required."""
    parameter = operation.parameters.get(name)
    return value is None and parameter is not None and not parameter.required


def _unknown(operation: Operation, meant: Mapping[str, str]) -> Iterator[Fault]:
    for name, nearest in meant.items():
        yield Fault(
            path=f"/{_pointed(quoted(name, 64)[1:-1])}",
            expected=f"an argument of {operation.name}; there is none of this name",
            received=quoted(name, 64),  # the value may be a secret under a misspelt name
            did_you_mean=nearest or None,
        )


def _pointed(name: str) -> str:
    """A name as a JSON Pointer has it (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _missing(operation: Operation, raw: Mapping[str, Json]) -> Iterator[Fault]:
    for parameter in operation.parameters.values():
        if parameter.required and parameter.name not in raw:
            yield Fault(
                path=f"/{parameter.name}",
                expected=f"{parameter.expected}; it is required",
                received="nothing",
                example=parameter.example,
            )


def _wrong(operation: Operation, raw: Mapping[str, Json]) -> Iterator[Fault]:
    for name, value in raw.items():
        parameter = operation.parameters.get(name)
        if parameter is None:
            continue
        if unseen := _first_invisible(parameter, value):
            clean = f"without invisible characters (U+{ord(unseen):04X} is one)"
            yield _fault(parameter, value, f"{parameter.expected}, {clean}")
        elif not _is_right(parameter, value):
            yield _fault(parameter, value)


def _broken_rules(operation: Operation, raw: Mapping[str, Json]) -> Iterator[Fault]:
    for rule in operation.rules:
        given = [name for name in rule.parameters if name in raw]
        first = operation.parameters[rule.parameters[0]]
        names = ", ".join(rule.parameters)
        if rule.rule == "needs_one_of" and not given:
            yield Fault(
                path=f"/{first.name}",
                expected=f"at least one of {names}",
                received="none of them",
                example=first.example,
            )
        elif rule.rule == "excludes" and len(given) > 1:
            yield Fault(path=f"/{given[-1]}", expected=f"only one of {names}", received="both")
        elif rule.rule == "must_match_kind" and address_kind(raw.get(rule.given)) == rule.kind:
            yield from _mismatches(operation, rule, raw)


def _mismatches(operation: Operation, rule: Rule, raw: Mapping[str, Json]) -> Iterator[Fault]:
    for name in rule.parameters:
        parameter = operation.parameters[name]
        value = raw.get(name)
        if address_kind(value) not in (None, rule.kind) and _is_right(parameter, value):
            yield Fault(
                path=f"/{name}",
                expected=f"a {rule.kind}, since {rule.given} is a {rule.kind}",
                received=_received(parameter, value),
                example=parameter.example,
            )


def _ineffective(operation: Operation, raw: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """What the API will ignore, and why. An argument that is ignored counts as not given."""
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
        return f"is ignored, because {rule.given} is given"
    if rule.rule == "no_effect_without" and given in (None, False):
        return f"has no effect without {rule.given}"
    if rule.rule == "only_for_kind" and address_kind(given) != rule.kind:
        return f"has no effect: {rule.given} is not a {rule.kind}"
    return None


def _normal(value: Json) -> Json:
    """60.0 is an integer in JSON Schema, and 60 on the wire."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _meant(operation: Operation, name: str) -> str:
    """The argument that `name` is probably meant to be, or nothing."""
    spellings = {p.wire.casefold(): p.name for p in operation.parameters.values() if p.wire}
    spellings |= {p.replace("_", ""): p for p in operation.parameters}
    folded = name[:64].casefold()
    plain = folded.replace("_", "").replace("-", "")
    for spelling in (folded, plain, plain.removeprefix("call")):
        if spelling in spellings:
            return spellings[spelling]
    close = get_close_matches(folded, operation.parameters, n=1, cutoff=0.7)
    return close[0] if close else ""


def _first_invisible(parameter: Parameter, value: Json) -> str:
    texts = value if isinstance(value, list) else [value]
    allowed = "\t\n\r" if parameter.type.multiline else ""
    return "".join(first_invisible(t, allowed) for t in texts if isinstance(t, str))[:1]


def _fault(parameter: Parameter, value: Json, expected: str = "") -> Fault:
    return Fault(
        path=f"/{parameter.name}",
        expected=expected or parameter.expected,
        received=_received(parameter, value),
        example=parameter.example,
        did_you_mean=None if parameter.secret else _nearest_value(parameter, value),
    )


def _received(parameter: Parameter, value: Json) -> str:
    """Return a short description of a value of any size, without secrets."""
    if parameter.secret and value is not None:
        return MASK
    if isinstance(value, str):
        characters = "1 character" if len(value) == 1 else f"{len(value)} characters"
        return f"{quoted(value, 80)} (a text of {characters})"
    if isinstance(value, list):
        return f"a list of {len(value)}: {', '.join(_item(item) for item in value[:5])}"
    return _item(value)


def _item(value: Json) -> str:
    match value:
        case str():
            return quoted(value, 40)
        case None | bool():
            return json.dumps(value)
        case int() | float() if abs(value) < _LARGEST_SHOWN:
            return str(value)
        case float() if value != value:  # noqa: PLR0124  # so is NaN alone
            return "not a number"
        case int() | float():
            return "a number far out of range"
        case _:
            return "a list" if isinstance(value, list) else "an object"


def _nearest_value(parameter: Parameter, value: Json) -> Json:
    text = _text(value)
    if text is None or len(text) > _LONGEST_GUESSED:
        return None
    candidates = _candidates(parameter.schema, parameter.type.asserts, text.strip())
    return next((c for c in candidates if c != value and _is_right(parameter, c)), None)


def _text(value: Json) -> str | None:
    """What was probably to be said as a text: a number without quotes, a list of texts."""
    match value:
        case str():
            return value
        case int() if not isinstance(value, bool) and abs(value) < _LARGEST_SHOWN:
            return str(value)
        case list() if all(isinstance(item, str) for item in value):
            return ",".join(map(str, value))
        case _:
            return None


def _is_right(parameter: Parameter, value: Json) -> bool:
    if not _has_right_type(parameter.schema, value):  # which jsonschema can't always print
        return False
    valid: bool = _validator(parameter).is_valid(value)  # pyright: ignore[reportUnknownMemberType]  # its second overload is untyped
    return valid and not _first_invisible(parameter, value)


def _has_right_type(schema: Schema, value: Json) -> bool:
    if isinstance(value, list):
        return schema["type"] == "array" and all(isinstance(item, str) for item in value)
    if isinstance(value, int | float) and abs(value) > _LARGEST_SHOWN:
        return False
    return not isinstance(value, dict)


def _candidates(schema: Schema, asserts: Schema, text: str) -> Iterable[Json]:
    """What `text` may have been meant to say, best guesses first."""
    yield text
    if text.isascii() and text.isdigit():
        yield int(text)
    yield {"true": True, "false": False}.get(text.casefold())
    items = schema.get("items")
    if isinstance(items, dict):
        words = text.replace(",", " ").split()
        yield [*words]
        yield [*filter(None, (_closest(word, items.get("enum")) for word in words))]
    yield _closest(text, schema.get("enum"))
    if asserts.get("format") == "date-or-time":
        yield from (f"{text}Z", text.replace("/", "-"), text.replace(" ", "T"))
    if asserts.get("format") == "http-url":
        scheme, mark, rest = text.partition("://")
        yield f"{scheme.lower()}{mark}{rest}"
    bare = text.replace("(0)", "").translate(dict.fromkeys(map(ord, " ().-/")))
    if bare.removeprefix("+").isdigit():
        yield bare
    if bare.isdigit() and len(bare) > _LONGEST_NATIONAL_NUMBER:  # it has a country code
        yield f"+{bare}"


def _closest(text: str, enum: Json) -> Json:
    """The choice that `text` is nearest to, if it is near one at all."""
    if not isinstance(enum, list):
        return None
    folded = {str(choice).casefold(): choice for choice in enum}
    return next((folded[m] for m in get_close_matches(text.casefold(), folded, cutoff=0.6)), None)
