"""The settings, as the manifest and the registry entry describe them to installers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from calls_mcp.settings import Settings

Kind = Literal["string", "number", "boolean", "file"]
_KINDS: dict[object, Kind] = {int: "number", float: "number", bool: "boolean", Path: "file"}


@dataclass(frozen=True, slots=True)
class Input:
    """A setting: its variable and allowed values. Unless it is required, it can be left out."""

    variable: str
    description: str
    kind: Kind
    secret: bool
    required: bool
    choices: tuple[str, ...]
    default: str | None


def inputs() -> dict[str, Input]:
    """Return all settings by variable, in their order."""
    return {name: _input(name, field) for name, field in Settings.variables().items()}


def _input(variable: str, field: FieldInfo) -> Input:
    types = [*_types(field.annotation)]
    choices = [word for hint in types if get_origin(hint) is Literal for word in get_args(hint)]
    return Input(
        variable=variable,
        description=(field.description or "").replace("`", ""),
        kind=_kind(types),
        secret=SecretStr in types,
        required=variable == "TWILIO_ACCOUNT_SID",
        choices=tuple(choices),
        default=_default(field.default),
    )


def _kind(types: Iterable[object]) -> Kind:
    for hint in types:
        if hint in _KINDS:
            return _KINDS[hint]
    return "string"


def _types(hint: object) -> Iterator[object]:
    """Yield the types in a union or annotation."""
    origin = get_origin(hint)
    if origin is None or origin is Literal:
        yield hint
        return
    for inner in get_args(hint):
        yield from _types(inner)


def _default(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
