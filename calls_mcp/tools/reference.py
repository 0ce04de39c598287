"""The reference of a tool's parameters, in Markdown, from the catalog."""

import json
from collections.abc import Iterator, Mapping

from calls_mcp.tools.catalog import Json, Operation, Parameter, Rule

_PLACES = {"path": "in the path", "query": "in the query", "form": "in the form"}
_BOUNDS = {
    "pattern": "matches `{}`",
    "minimum": "{} or more",
    "maximum": "{} or less",
    "minLength": "{} or more characters",
    "maxLength": "{} or fewer characters",
    "minItems": "{} or more of them",
}


def parameter_reference(operation: Operation) -> str:
    """Return the reference of a tool's parameters."""
    return "\n".join(_lines(operation)) + "\n"


def describe_rule(rule: Rule) -> str:
    """Return what one argument means for others, as a sentence."""
    names = ", ".join(f"`{name}`" for name in rule.parameters)
    return {
        "needs_one_of": f"At least one of {names} is needed.",
        "excludes": f"Only one of {names} may be given.",
        "must_match_kind": f"If `{rule.given}` is a {rule.kind}, {names} must be one.",
        "ignored_when": f"With `{rule.given}`, ignored: {names}.",
        "no_effect_without": f"Without `{rule.given}`, no effect: {names}.",
        "only_for_kind": f"Unless `{rule.given}` is a {rule.kind}, no effect: {names}.",
    }[rule.rule]


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
        yield "- Secret: it is shown nowhere, and recorded nowhere"
    for rule in operation.rules:
        if parameter.name in (*rule.parameters, rule.given):
            yield f"- {describe_rule(rule)}"


def _bounds(parameter: Parameter) -> Iterator[str]:
    held_to: Mapping[str, Json] = {**parameter.type.asserts, **parameter.schema}
    for keyword, words in _BOUNDS.items():
        if keyword in held_to:
            yield words.format(held_to[keyword])
    if held_to.get("uniqueItems"):
        yield "each once"


def _sent(parameter: Parameter) -> str:
    if parameter.location == "own":
        return "not to the API; it is this server's own"
    if parameter.location == "local":
        return f"not to the API, which knows it as `{parameter.wire}`"
    return f"as `{parameter.wire}`, {_PLACES[parameter.location]}"


def _value(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`"
