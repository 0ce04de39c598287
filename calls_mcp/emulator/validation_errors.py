"""Messages about invalid scenario files and control API requests."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_MESSAGES = {
    "extra_forbidden": "unknown key",
    "unexpected_keyword_argument": "unknown key",
    "missing": "is required",
    "json_invalid": "the body must be JSON",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than_equal": "must be {le:g} or less",
    "string_pattern_mismatch": "must match {pattern}",
    "finite_number": "must be a finite number",
    "dataclass_type": "must be a table",
    "model_type": "the body must be a JSON object",
}
_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false"}


def describe(error: ValidationError) -> list[str]:
    """Return one message for each error, with the path of the value first."""
    return [_describe(each) for each in error.errors(include_url=False)]


def _describe(error: ErrorDetails) -> str:
    path = ".".join(str(part) for part in error["loc"] if part != "[key]")
    return f"{path}: {_message(error)}" if path else _message(error)


def _message(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be {str(context['expected']).replace(chr(39), '')}"
    if expected := _KINDS.get(kind.partition("_")[0]):
        return f"must be {expected}"
    message = _MESSAGES.get(kind)
    return message.format(**context) if message else error["msg"]
