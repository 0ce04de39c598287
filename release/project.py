"""What a release says about the project: its metadata, its version and its settings."""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from calls_mcp import __version__ as version
from calls_mcp.settings import Settings

__all__ = ["ROOT", "Input", "Project", "inputs", "project", "registry_name", "version"]

ROOT = Path(__file__).parent.parent

Kind = Literal["string", "number", "boolean", "file"]
_KINDS: dict[object, Kind] = {int: "number", float: "number", bool: "boolean", Path: "file"}

# The keys are those of PEP 621.
Project = TypedDict(
    "Project",
    {
        "name": str,
        "description": str,
        "license": str,
        "requires-python": str,
        "keywords": list[str],
        "dependencies": list[str],
    },
)


class _Release(TypedDict):
    namespace: str


class _Tool(TypedDict):
    release: _Release


class _File(TypedDict):
    project: Project
    tool: _Tool


@cache
def _file() -> _File:
    # tomllib returns untyped data.
    file: _File = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))  # pyright: ignore[reportAssignmentType]
    return file


def project() -> Project:
    """Return the table `[project]`."""
    return _file()["project"]


def registry_name() -> str:
    """Return the server's name in the MCP registry: the publisher's namespace and the name."""
    return f"{_file()['tool']['release']['namespace']}/{project()['name']}"


# Settings, as they are described to installers


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
