"""What a host makes of a schema with optional arguments, for OpenAI's strict mode."""

from dataclasses import replace
from typing import Any, cast

from tests.models.checker import Schema, Tool

# Keywords that strict mode does not document; a host adds them to the description instead.
_LEFT_OUT = ("default", "maxLength", "minLength")


def strict(tool: Tool) -> Tool:
    """The tool with all arguments required; those that were optional can be `null`.

    Hosts that require all arguments without allowing `null` are not supported, because then a model
    must give every argument.
    """
    return replace(tool, schema=_strict(tool.schema))


def _strict(schema: Schema) -> Schema:
    properties = cast("dict[str, Schema]", schema.get("properties", {}))
    required = schema.get("required", [])
    made = {
        name: _kept(inner) if name in required else _or_null(_kept(inner))
        for name, inner in properties.items()
    }
    return {**schema, "properties": made, "required": [*made]}


def _kept(schema: Schema) -> dict[str, Any]:
    told = [f"{key}: {schema[key]}" for key in _LEFT_OUT if key in schema]
    kept = {key: value for key, value in schema.items() if key not in _LEFT_OUT}
    return {**kept, "description": " ".join([schema["description"], *told])}


def _or_null(schema: dict[str, Any]) -> Schema:
    nullable = {**schema, "type": [schema["type"], "null"]}
    return {**nullable, "enum": [*schema["enum"], None]} if "enum" in schema else nullable
