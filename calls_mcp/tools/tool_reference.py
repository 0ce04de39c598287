"""The reference of a tool's parameters in Markdown, made from the catalog."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from calls_mcp.tools.catalog import Json, Operation, Parameter, Rule
from calls_mcp.tools.validation import spoken

_PLACES = {"path": "in the path", "query": "in the query", "form": "in the form body"}
_BOUNDS = {
    "minimum": "{} or more",
    "maximum": "{} or less",
    "minLength": "{} or more characters",
    "maxLength": "{} or fewer characters",
    "minItems": "{} or more items",
}


def parameter_reference(operation: Operation) -> str:
    """Return the reference of a tool's parameters."""
    return "\n".join(_lines(operation)) + "\n"


def describe_rule(rule: Rule) -> str:
    """Return a rule about several arguments as a sentence."""
    names = ", ".join(f"`{name}`" for name in rule.parameters)
    excluded = "can't be combined with" if rule.given else "Only one of these can be given:"
    return {
        "needs_one_of": f"Required: {_marked(rule.expected, rule.parameters)}.",
        "needs": f"If `{rule.given}` is given, {names} must be, too.",
        "excludes": f"`{rule.given}` {excluded} {names}.".removeprefix("`` "),
        "must_match_kind": f"If `{rule.given}` is a {rule.kind}, {names} must be one, too.",
        "no_host_for_kind": f"If `{rule.given}` is a {rule.kind}, {names} must not contain @.",
        "ignored_when": f"Ignored if `{rule.given}` is given: {names}.",
        "no_effect_without": f"Only used with `{rule.given}`: {names}.",
        "only_for_kind": f"Only used if `{rule.given}` is a {rule.kind}: {names}.",
    }[rule.rule]


def _marked(text: str, names: Sequence[str]) -> str:
    """Return a text with the names in it marked as code."""
    return re.sub(rf"\b({'|'.join(names)})\b", r"`\1`", text)


def _lines(operation: Operation) -> Iterator[str]:
    yield f"# {operation.name}: {operation.title}"
    yield ""
    yield operation.description
    yield ""
    yield f"- Request: `{operation.method} {operation.path}`"
    yield f"- Reference: <{operation.reference}>"
    for parameter in operation.parameters.values():
        yield from _parameter(operation, parameter)


def _parameter(operation: Operation, parameter: Parameter) -> Iterator[str]:
    yield ""
    yield f"## `{parameter.name}`{' (required)' if parameter.required else ''}"
    yield ""
    yield f"{parameter.description}."
    yield ""
    yield f"- Type: {parameter.schema['type']}; {parameter.expected}"
    if parameter.choices:
        yield f"- Choices: {', '.join(map(_value, parameter.choices))}"
    if bounds := "; ".join(_bounds(parameter)):
        yield f"- Bounds: {bounds}"
    if "default" in parameter.schema:
        yield f"- Default: {_value(parameter.schema['default'])}"
    if parameter.example is not None:
        yield f"- Example: {_value(parameter.example)}"
    yield f"- Sent: {_sent(parameter)}"
    if parameter.secret:
        yield "- Secret: it is never shown or recorded"
    for rule in operation.rules:
        if parameter.name in (*rule.parameters, rule.given):
            yield f"- {describe_rule(rule)}"


def _bounds(parameter: Parameter) -> Iterator[str]:
    checked: Mapping[str, Json] = {**parameter.type.asserts, **parameter.schema}
    for keyword, words in _BOUNDS.items():
        if keyword in checked:
            yield words.format(checked[keyword])
    if checked.get("uniqueItems"):
        yield "no duplicates"


def _sent(parameter: Parameter) -> str:
    if parameter.becomes:
        return f"to the API in `{parameter.becomes}`, as `{spoken('…')}`"
    if parameter.location == "own":
        return "to this server only"
    if parameter.location == "local":
        return f"to this server only; the API documents it as `{parameter.wire}`"
    return f"to the API as `{parameter.wire}`, {_PLACES[parameter.location]}"


def _value(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`"
