"""Checks tool definitions against the rules of a model API."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

Schema = Mapping[str, Any]
_COMBINATORS = ("anyOf", "oneOf", "allOf")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as it is sent to a model API."""

    name: str
    description: str
    schema: Schema


@dataclass(frozen=True, slots=True)
class Rule:
    """A requirement of an API: the name of a check, its parameter, and the source document."""

    check: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Place:
    """A subschema of a tool: its path, and its nesting level in objects and arrays."""

    path: str
    schema: Schema
    level: int


def faults(tools: list[Tool], rules: tuple[Rule, ...]) -> set[str]:
    """What an API would refuse in the tools, as check and path."""
    return {
        f"{rule.check}: {place}"
        for rule in rules
        for place in CHECKS[rule.check](tools, rule.value)
    }


def broken(tools: list[Tool], rules: tuple[Rule, ...]) -> set[str]:
    """The checks that the tools fail."""
    return {fault.partition(":")[0] for fault in faults(tools, rules)}


def places(tool: Tool) -> list[Place]:
    """The schema of a tool and all its subschemas."""
    return [*_inside(tool.schema, tool.name, 1)]


def _inside(schema: Schema, path: str, level: int) -> Iterator[Place]:
    yield Place(path, schema, level)
    for keyword in ("properties", "$defs", "definitions", "patternProperties"):
        for name, inner in schema.get(keyword, {}).items():
            yield from _inside(inner, f"{path}/{name}", level + _deepens(inner))
    for keyword in ("items", "not", "additionalProperties"):
        inner = schema.get(keyword)
        if isinstance(inner, Mapping):
            found = cast("Schema", inner)
            yield from _inside(found, f"{path}/{keyword}", level + _deepens(found))
    for keyword in _COMBINATORS:
        for number, inner in enumerate(schema.get(keyword, [])):
            yield from _inside(inner, f"{path}/{keyword}/{number}", level + _deepens(inner))


def _deepens(schema: Schema) -> bool:
    return bool({"object", "array"} & {*_types(schema)})


def _types(schema: Schema) -> list[str]:
    told = schema.get("type", [])
    return [told] if isinstance(told, str) else [*told]


Check = Callable[[list[Tool], Any], Iterator[str]]


def _of_tools(holds: Callable[[Tool, Any], bool]) -> Check:
    return lambda tools, value: (tool.name for tool in tools if not holds(tool, value))


def _everywhere(holds: Callable[[Schema, Any], bool]) -> Check:
    return lambda tools, value: (
        place.path for tool in tools for place in places(tool) if not holds(place.schema, value)
    )


def _at_most(count: Callable[[list[Place]], int]) -> Check:
    """A check of each tool separately."""
    return lambda tools, most: (tool.name for tool in tools if count(places(tool)) > most)


def _in_all(count: Callable[[list[Place]], int]) -> Check:
    """A check of all tools of one request together."""

    def check(tools: list[Tool], most: int) -> Iterator[str]:
        number = sum(count(places(tool)) for tool in tools)
        if number > most:
            yield f"{number} in all"

    return check


def _is_schema(tool: Tool, _value: object) -> bool:
    properties = tool.schema.get("properties", {}).values()
    different = {json.dumps(each): each for each in properties}  # each check takes 0.3 ms
    try:
        Draft202012Validator.check_schema({**tool.schema, "properties": different})
    except SchemaError:
        return False
    return True


def _names_fit(schema: Schema, pattern: str) -> bool:
    return all(re.fullmatch(pattern, name) for name in schema.get("properties", {}))


def _is_closed(schema: Schema, _value: object) -> bool:
    return "object" not in _types(schema) or schema.get("additionalProperties") is False


def _all_required(schema: Schema, _value: object) -> bool:
    return {*schema.get("properties", {})} == {*schema.get("required", [])}


def _are_known(schema: Schema, _value: object) -> bool:
    return {*schema.get("required", [])} <= {*schema.get("properties", {})}


def _optional(schema: Schema) -> int:
    return len({*schema.get("properties", {})} - {*schema.get("required", [])})


def _is_short(schema: Schema, value: tuple[int, int]) -> bool:
    values, characters = schema.get("enum", []), sum(map(len, map(str, schema.get("enum", []))))
    return len(values) <= value[0] or characters <= value[1]


def _characters(schema: Schema) -> int:
    words = [*schema.get("properties", {}), *schema.get("$defs", {}), *schema.get("enum", [])]
    return sum(map(len, map(str, [*words, schema.get("const", "")])))


CHECKS: dict[str, Check] = {
    "tool name": _of_tools(lambda tool, pattern: bool(re.fullmatch(pattern, tool.name))),
    "description length": _of_tools(lambda tool, most: len(tool.description) <= most),
    "root is an object": _of_tools(lambda tool, _: tool.schema.get("type") == "object"),
    "root without": _of_tools(lambda tool, banned: not banned & tool.schema.keys()),
    "JSON Schema": _of_tools(_is_schema),
    "tools": lambda tools, most: iter(["too many"] if len(tools) > most else []),
    "property name": _everywhere(_names_fit),
    "keywords": _everywhere(lambda schema, known: schema.keys() <= known),
    "without": _everywhere(lambda schema, banned: not banned & schema.keys()),
    "types": _everywhere(lambda schema, known: {*_types(schema)} <= known),
    "one type": _everywhere(lambda schema, _: isinstance(schema.get("type", ""), str)),
    "format": _everywhere(lambda schema, known: schema.get("format") in (None, *known)),
    "pattern": _everywhere(lambda schema, odd: not re.search(odd, schema.get("pattern", ""))),
    "closed": _everywhere(_is_closed),
    "all required": _everywhere(_all_required),
    "required is known": _everywhere(_are_known),
    "items": _everywhere(lambda schema, _: "array" not in _types(schema) or "items" in schema),
    "minItems": _everywhere(lambda schema, known: schema.get("minItems", 0) in known),
    "enum of": _everywhere(
        lambda schema, kinds: all(isinstance(each, kinds) for each in schema.get("enum", []))
    ),
    "enum characters": _everywhere(_is_short),
    "local $ref": _everywhere(lambda schema, _: schema.get("$ref", "#").startswith("#")),
    "levels": _at_most(lambda found: max(place.level for place in found)),
    "properties": _at_most(lambda f: sum(len(place.schema.get("properties", {})) for place in f)),
    "enum values": _at_most(lambda f: sum(len(place.schema.get("enum", [])) for place in f)),
    "characters": _at_most(lambda found: sum(_characters(place.schema) for place in found)),
    "optional parameters": _in_all(lambda f: sum(_optional(place.schema) for place in f)),
    "union types": _in_all(
        lambda found: sum(
            "anyOf" in place.schema or isinstance(place.schema.get("type"), list) for place in found
        )
    ),
}
