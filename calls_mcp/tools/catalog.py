"""The five operations, read from `config/`, with one file per tool and one table per parameter."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    with_config,
)
from pydantic import JsonValue as Json
from pydantic_core import ErrorDetails

from calls_mcp.errors import CatalogError
from calls_mcp.tools.toml_files import reason

# In a wheel, `config/` and `prompts/` are inside the package; in a checkout, next to it.
_PACKAGE = Path(__file__).parents[1]
_ROOT = _PACKAGE if (_PACKAGE / "config").is_dir() else _PACKAGE.parent
CONFIG = _ROOT / "config"
PROMPTS = _ROOT / "prompts"

Schema = dict[str, Json]

Action = Literal["place", "redirect", "hang_up", "modify", "delete"]
"""The kind of a change, as a user sees it."""
Effect = Literal["read", "place", "change", "delete"]
Confirm = Literal["all", "destructive", "none", "operator"]
Location = Literal["path", "query", "form", "local", "own"]
AddressKind = Literal["phone number", "SIP address", "client", "SIM"]

INSTRUCTIONS = frozenset({"url", "fallback_url", "twiml"})
"""The arguments that say what a call does. A live call that gets one of them is redirected."""

_Read = TypeVar("_Read")
_CLOSED = ConfigDict(extra="forbid")

_PREFIXES: dict[str, AddressKind] = {
    "+": "phone number",
    "sip:": "SIP address",
    "sips:": "SIP address",
    "client:": "client",
    "sim:": "SIM",
}


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True, eq=False)
class ValueType:
    """A type of values from `config/types.toml`, which describes the fields."""

    schema: Schema
    expected: str
    example: Json = None
    asserts: Schema = field(default_factory=dict[str, Json])
    multiline: bool = False
    private: bool = False


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _known(name: object, info: ValidationInfo) -> ValueType:
    types = cast("Mapping[object, ValueType]", info.context)
    if name not in types:
        raise ValueError(f"unknown type {name!r}")
    return types[name]


_Text = Annotated[str, BeforeValidator(_one_line), Field(min_length=1)]


@with_config(_CLOSED)
@dataclass(frozen=True, eq=False)
class Parameter:
    """An argument of a tool.

    `location` is `path`, `query` or `form` if it is sent to the API. A `local` parameter is in the
    API's documentation, but only this server uses it; only this server has an `own` parameter. A
    text to speak `becomes` the TwiML in another argument.
    """

    name: str
    type: Annotated[ValueType, BeforeValidator(_known)]
    location: Annotated[Location, Field(alias="in")]
    text: Annotated[_Text, Field(alias="description")]
    wire: str = ""
    unit: str = ""
    becomes: str = ""
    required: bool = False
    secret: bool = False
    enum: tuple[Json, ...] = ()
    minimum: Json = None
    maximum: Json = None
    default: Json = None
    own_example: Annotated[Json, Field(alias="example")] = None

    def __post_init__(self) -> None:
        if not self.wire and self.location != "own":
            raise ValueError("has no wire name")

    @property
    def description(self) -> str:
        """Return the description with the unit."""
        return f"{self.text} ({self.unit})" if self.unit else self.text

    @cached_property
    def schema(self) -> Schema:
        """Return the published schema."""
        choices: Schema = {"enum": [*self.enum]} if self.enum else {}
        if choices and self._is_list:
            choices = {"items": {"type": "string", **choices}}
        bounds: Schema = {"minimum": self.minimum, "maximum": self.maximum, "default": self.default}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        return {**self.type.schema, **choices, **given}

    @property
    def choices(self) -> list[Json]:
        """Return the allowed values of the argument or its items; empty if all are allowed."""
        items = self.schema.get("items")
        choices = items.get("enum") if isinstance(items, dict) else self.schema.get("enum")
        return choices if isinstance(choices, list) else []

    @property
    def expected(self) -> str:
        """Return what a fault message says was expected."""
        words = self.type.expected
        if self.enum:
            return f"{words} {', '.join(map(str, self.enum))}"
        if self.unit:
            words += f" of {self.unit}"
        if self.minimum is None:
            return words
        if self.maximum is None:
            return f"{words}, {self.minimum} or more"
        return f"{words} from {self.minimum} to {self.maximum}"

    @property
    def example(self) -> Json:
        """Return the example in a fault message, or None.

        There is none if few values are allowed, because it could be the opposite of what was meant.
        """
        if self.choices or self.secret or self.schema["type"] == "boolean":
            return None
        known = (self.own_example, self.default, self.type.example)
        return next((example for example in known if example is not None), None)

    @property
    def _is_list(self) -> bool:
        return self.type.schema["type"] == "array"


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Rule:
    """A rule about several arguments.

    - `needs_one_of`: at least one of `parameters` must be given; `expected` says so
    - `needs`: if `given` is given, so must `parameters` be
    - `excludes`: `given` can't be combined with `parameters`, or these with each other
    - `must_match_kind`: if `given` is of `kind`, so must `parameters` be
    - `no_host_for_kind`: if `given` is of `kind`, `parameters` must not contain @
    - `ignored_when`: the API ignores `parameters` if `given` is given
    - `no_effect_without`: `parameters` do nothing unless `given` is given, and not false
    - `only_for_kind`: `parameters` do nothing unless `given` is of `kind`
    """

    rule: Literal[
        "needs_one_of",
        "needs",
        "excludes",
        "must_match_kind",
        "no_host_for_kind",
        "ignored_when",
        "no_effect_without",
        "only_for_kind",
    ]
    parameters: tuple[str, ...]
    given: str = ""
    kind: AddressKind = "phone number"
    expected: str = ""


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """An operation of the Calls API and its tool; `reference` is its page in the API's docs."""

    name: str
    title: str
    description: _Text
    effect: Effect
    method: Literal["GET", "POST", "DELETE"]
    path: str
    returns: Literal["call", "calls", "deleted"]
    reference: str
    parameters: Mapping[str, Parameter]
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        for parameter in self.parameters.values():
            if parameter.becomes not in {*self.parameters, ""}:
                raise ValueError(f"{parameter.name}.becomes: unknown parameter {parameter.becomes}")
        for rule in self.rules:
            if unknown := {*rule.parameters, rule.given} - {*self.parameters, ""}:
                unknowns = ", ".join(sorted(unknown))
                raise ValueError(f"rules.{rule.rule}: unknown parameter {unknowns}")

    @property
    def read_only(self) -> bool:
        """Return whether it only reads."""
        return self.effect == "read"


def address_kind(address: object) -> AddressKind | None:
    """Return the kind of an address by its prefix; None if the prefix is unknown."""
    if not isinstance(address, str):
        return None
    start = address[:7].lower()
    return next((kind for prefix, kind in _PREFIXES.items() if start.startswith(prefix)), None)


@cache
def load_operations(directory: Path = CONFIG) -> Mapping[str, Operation]:
    """Return the operations by name, sorted by name.

    Raises:
        CatalogError: A file has an unknown key, type or parameter, or lacks a key.
    """
    file = directory / "types.toml"
    types = _validated(file, TypeAdapter(dict[str, ValueType]), _read(file))
    adapter = TypeAdapter(Operation)
    files = sorted((directory / "operations").glob("*.toml"))
    return {file.stem: _validated(file, adapter, _table(file), types) for file in files}


def _table(file: Path) -> dict[str, Any]:
    """Return the table of an operation, with names and default locations of the parameters."""
    table = _read(file)
    location = "form" if table.get("method") == "POST" else "query"
    rows = table.get("parameters", {})
    parameters = {name: {"in": location, **row, "name": name} for name, row in rows.items()}
    return {**table, "name": file.stem, "parameters": parameters}


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as wrong:
        raise CatalogError(file.name, f"TOML: {wrong}") from wrong


def _validated(
    file: Path,
    adapter: TypeAdapter[_Read],
    table: dict[str, Any],
    types: Mapping[str, ValueType] | None = None,
) -> _Read:
    try:
        return adapter.validate_python(table, context=types)
    except ValidationError as invalid:
        raise CatalogError(file.name, *map(_fault, invalid.errors(include_url=False))) from None


def _fault(error: ErrorDetails) -> str:
    place = ".".join(map(str, error["loc"]))
    value = f", not {error['input']!r}" if error["type"] == "literal_error" else ""
    return ": ".join(filter(None, (place, f"{reason(error)}{value}")))
