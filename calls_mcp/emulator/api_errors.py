"""The errors of the API, and those of a scenario file or a request to the control API."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

INVALID_PARAMETER = 20001
NOT_FOUND = 20404
CALL_STATE = 21220

_MESSAGES = {
    "extra_forbidden": "unknown key",
    "unexpected_keyword_argument": "unknown key",
    "missing": "is required",
    "json_invalid": "the body must be JSON",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than_equal": "must be {le:g} or less",
    "string_too_short": "must not be empty",
    "sequence_str": "must be a list",
    "is_instance_of": "must be a list",
    "finite_number": "must be a finite number",
    "dataclass_type": "must be a table",
    "model_type": "the body must be a JSON object",
}
_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "a string",
}


class StartError(Exception):
    """The emulator cannot start with these options. The message is one line."""


class ApiError(Exception):
    """An error response of the API.

    Attributes:
        status: The HTTP status.
        code: The documented error code, such as 21220 (https://www.twilio.com/docs/errors/21220).
        message: The text for people.
    """

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def body(self) -> dict[str, int | str]:
        """Return the JSON object of the response."""
        return {
            "code": self.code,
            "message": self.message,
            "more_info": f"https://www.twilio.com/docs/errors/{self.code}",
            "status": self.status,
        }


def invalid(message: str, code: int = INVALID_PARAMETER) -> ApiError:
    """Return the error for invalid parameters."""
    return ApiError(400, code, message)


def not_found(path: str) -> ApiError:
    """Return the error for a path without a resource in this account."""
    return ApiError(404, NOT_FOUND, f"The requested resource {path} was not found")


def describe(error: ValidationError) -> str:
    """Return what is wrong with each value, with its path first."""
    return "; ".join(_describe(each) for each in error.errors(include_url=False))


def _describe(error: ErrorDetails) -> str:
    path = ".".join(str(part) for part in error["loc"] if part != "[key]")
    return f"{path}: {_message(error)}" if path else _message(error)


def _message(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be {str(context['expected']).replace(chr(39), '')}"
    if message := _MESSAGES.get(kind):
        return message.format(**context)
    expected = _KINDS.get(kind.partition("_")[0])
    return f"must be {expected}" if expected else error["msg"]
