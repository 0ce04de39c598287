"""The published JSON Schemas (2020-12) of a tool, made from the catalog and the outcome model.

They are flat and have no references, because some model APIs refuse other schemas.
"""

from functools import cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import WithDefaultSchema

from calls_mcp.tools.catalog import Operation, Schema
from calls_mcp.tools.outcome import Outcome

_ANSWERS = {
    "call": ("call",),
    "calls": ("calls", "account_sid", "count", "next_cursor"),
    "deleted": ("deleted",),
}
_ASKING = ("confirmation", "reason", "recovered")
_ALWAYS = ("error", "warnings", "sandbox")
_GIST = ("sid", "status", "live")  # the published part of a call in the result of a change


def input_schema(operation: Operation) -> Schema:
    """Return the schema of the tool's arguments."""
    parameters = operation.parameters.values()
    schema: Schema = {
        "type": "object",
        "properties": {p.name: {**p.schema, "description": p.description} for p in parameters},
        "additionalProperties": False,
    }
    required = [p.name for p in parameters if p.required]
    return {**schema, "required": [*required]} if required else schema


def output_schema(operation: Operation) -> Schema:
    """Return the schema of the structured content of all results, including errors."""
    asking = () if operation.read_only else _ASKING
    names = ("outcome", *_ANSWERS[operation.returns], *asking, *_ALWAYS)
    whole = _outcome()
    properties = {name: whole["properties"][name] for name in names}
    if operation.read_only:
        properties["outcome"] = {"type": "string", "enum": ["done", "error"]}
    elif "call" in properties:
        fields = properties["call"]["properties"]
        gist = {name: fields[name] for name in _GIST}
        properties["call"] = {"type": "object", "properties": gist}
    return {**whole, "properties": properties}


class _WithoutDefaults(GenerateJsonSchema):
    """Leaves out what `_compact` would remove, because pydantic builds a model for each default."""

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


@cache
def _outcome() -> dict[str, Any]:
    schema = Outcome.model_json_schema(mode="serialization", schema_generator=_WithoutDefaults)
    return _compact(schema, schema["$defs"])


def _compact(schema: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` without references, nulls, titles and descriptions.

    Fields of any type are left out, because no schema for them works in all clients.
    """
    if "$ref" in schema:
        return _compact(models[schema["$ref"].rpartition("/")[2]], models)
    if "anyOf" in schema:
        return _compact(schema["anyOf"][0], models)  # the other is null
    compact = {key: schema[key] for key in ("type", "enum") if key in schema}
    if "properties" in schema:
        inner = {name: _compact(each, models) for name, each in schema["properties"].items()}
        compact["properties"] = {name: each for name, each in inner.items() if each}
    if "items" in schema:  # their `required` is left out to save tokens
        item = _compact(schema["items"], models)
        compact["items"] = {key: value for key, value in item.items() if key != "required"}
    return compact | ({"required": schema["required"]} if "required" in schema else {})
