"""`key=value` on a command line → the arguments of a tool."""

import json
import re
from collections.abc import Iterable, Mapping

from calls_mcp.errors import ConfigurationError
from calls_mcp.tools.catalog import Json, Operation

_NAME = re.compile(r"[\w-]+")
_WANTED: Mapping[object, type] = {"integer": int, "boolean": bool, "array": list}


def assigned(pairs: Iterable[str], operation: Operation) -> dict[str, Json]:
    """The arguments that `pairs` give to `operation`.

    A value is JSON where that is what the parameter's schema wants, and else the text itself; it is
    for the tool's own check to say what is wrong with that. A list may be given by repeating it.

    Raises:
        ConfigurationError: One of them is no `key=value`, or gives twice what is no list. It is
            told by its place, for what it holds may be a secret.
    """
    arguments: dict[str, Json] = {}
    for number, pair in enumerate(pairs, 1):
        name, equals, text = pair.partition("=")
        if not (equals and _NAME.fullmatch(name)):
            raise ConfigurationError(f"Argument {number} is not key=value.")
        wanted = _wanted(operation, name)
        value = _value(text, wanted)
        if wanted is list:
            items = value if isinstance(value, list) else [value]
            before = arguments.get(name)
            arguments[name] = [*(before if isinstance(before, list) else []), *items]
        elif name in arguments:
            raise ConfigurationError(f"{name} is given twice.")
        else:
            arguments[name] = value
    return arguments


def _wanted(operation: Operation, name: str) -> type:
    parameter = operation.parameters.get(name)
    return _WANTED.get(parameter.schema["type"], str) if parameter else str


def _value(text: str, wanted: type) -> Json:
    if wanted is str:
        return text
    try:
        value: Json = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if type(value) is wanted else text
