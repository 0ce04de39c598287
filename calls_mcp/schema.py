"""The JSON Schemas a tool publishes (2020-12), made from the catalog and the outcome types.

Flat at the root and without references: model APIs refuse or drop tools that are not.
"""

from typing import Literal, Required, get_args, get_origin, get_type_hints, is_typeddict

from calls_mcp.catalog import Operation, Parameter, Schema
from calls_mcp.outcome import CallGist, Outcome

_SCALARS: dict[object, str] = {str: "string", int: "integer", bool: "boolean"}

_ANSWERS = {
    "call": ("call",),
    "calls": ("calls", "account_sid", "count", "next_cursor"),
    "deleted": ("deleted",),
}
_ASKING = ("confirmation", "reason", "recovered")
_ALWAYS = ("error", "warnings", "sandbox")


def input_schema(operation: Operation) -> Schema:
    """What the tool's arguments must look like."""
    parameters = operation.parameters.values()
    schema: Schema = {
        "type": "object",
        "properties": {p.name: {**p.schema, "description": p.description} for p in parameters},
        "additionalProperties": False,
    }
    required = [p.name for p in parameters if p.required]
    return {**schema, "required": [*required]} if required else schema


def checked_schema(parameter: Parameter) -> Schema:
    """What one argument is held to: all that is published of it, and what isn't."""
    return {"allOf": [parameter.schema, parameter.type.asserts]}


def output_schema(operation: Operation) -> Schema:
    """What the structured content of all the tool's results looks like, failures included."""
    asking = () if operation.read_only else _ASKING
    names = ("outcome", *_ANSWERS[operation.returns], *asking, *_ALWAYS)
    hints = get_type_hints(Outcome, include_extras=True)
    if operation.read_only:
        hints["outcome"] = Required[Literal["done", "error"]]
    elif "call" in names:  # the reading tools tell what else a call has
        hints["call"] = CallGist
    return _object({name: hints[name] for name in names})


def _object(hints: dict[str, object]) -> Schema:
    """A key of any type at all is left out: there is nothing to declare that all clients take."""
    properties: Schema = {n: _schema(hint) for n, hint in hints.items() if hint is not object}
    required = [name for name, hint in hints.items() if get_origin(hint) is Required]
    schema: Schema = {"type": "object", "properties": properties}
    return {**schema, "required": [*required]} if required else schema


def _schema(hint: object) -> Schema:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Required:
        return _schema(args[0])
    if origin is Literal:
        return {"type": "string", "enum": [*args]}
    if origin is list:
        item = _schema(args[0])  # what each of them must have is not worth its tokens
        return {"type": "array", "items": {k: v for k, v in item.items() if k != "required"}}
    if is_typeddict(hint) and isinstance(hint, type):
        return _object(get_type_hints(hint, include_extras=True))
    return {"type": _SCALARS[hint]}
