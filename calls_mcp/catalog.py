"""The five operations, read from `config/`: one file is one tool, one row is one parameter."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic import JsonValue as Json
from pydantic_core import ErrorDetails

from calls_mcp.datafiles import CONFIG
from calls_mcp.errors import CatalogError
from calls_mcp.tomlfile import reason

Schema = dict[str, Json]

Effect = Literal["read", "place", "change", "delete"]
Confirm = Literal["all", "destructive", "none", "operator"]
Location = Literal["path", "query", "form", "local", "own"]
Kind = Literal["number", "SIP address", "client", "SIM"]

_Read = TypeVar("_Read")
_CLOSED = ConfigDict(extra="forbid")

_PREFIXES: dict[str, Kind] = {
    "+": "number",
    "sip:": "SIP address",
    "sips:": "SIP address",
    "client:": "client",
    "sim:": "SIM",
}


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True, eq=False)
class ValueType:
    """A kind of value, from `config/types.toml`; see there for the meaning of each field."""

    schema: Schema
    expected: str
    example: Json = None
    asserts: Schema = field(default_factory=dict[str, Json])
    multiline: bool = False
    private: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """An argument of a tool.

    `location` is where it goes on the wire: path, query or form; `local` is documented but never
    sent, `own` is this server's and not the API's.
    """

    name: str
    wire: str
    location: Location
    type: ValueType
    schema: Schema
    description: str
    expected: str
    example: Json
    unit: str
    required: bool
    secret: bool

    @property
    def choices(self) -> list[Json]:
        """The values that it, or each item of it, must be one of; empty if there are no such."""
        items = self.schema.get("items")
        choices = items.get("enum") if isinstance(items, dict) else self.schema.get("enum")
        return choices if isinstance(choices, list) else []


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Rule:
    """What one argument means for others.

    - `needs_one_of`: at least one of `parameters` must be given
    - `excludes`: at most one of `parameters` may be given
    - `must_match_kind`: if `given` is of `kind`, so must `parameters` be
    - `ignored_when`: the API ignores `parameters` if `given` is given
    - `no_effect_without`: `parameters` do nothing unless `given` is given, and not false
    - `only_for_kind`: `parameters` do nothing unless `given` is of `kind`
    """

    rule: Literal[
        "needs_one_of",
        "excludes",
        "must_match_kind",
        "ignored_when",
        "no_effect_without",
        "only_for_kind",
    ]
    parameters: tuple[str, ...]
    given: str = ""
    kind: Kind = "number"


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation of the Calls API, and the tool that offers it; `reference` is its page."""

    name: str
    title: str
    description: str
    effect: Effect
    method: Literal["GET", "POST", "DELETE"]
    path: str
    returns: Literal["call", "calls", "deleted"]
    reference: str
    parameters: Mapping[str, Parameter]
    rules: tuple[Rule, ...]

    @property
    def read_only(self) -> bool:
        """Whether it changes nothing upstream."""
        return self.effect == "read"


def kind_of(address: object) -> Kind | None:
    """What sort of party `address` names, by its prefix; None if it has none of them."""
    if not isinstance(address, str):
        return None
    return next((kind for prefix, kind in _PREFIXES.items() if address.startswith(prefix)), None)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


_Text = Annotated[str, BeforeValidator(_one_line), Field(min_length=1)]


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class _Row:
    """A parameter as its file has it: what its row adds to its type."""

    type: str
    description: _Text
    location: Annotated[Location | None, Field(alias="in")] = None
    wire: str = ""
    unit: str = ""
    required: bool = False
    secret: bool = False
    enum: tuple[Json, ...] = ()
    minimum: Json = None
    maximum: Json = None
    default: Json = None
    example: Json = None

    def parameter(self, name: str, value_type: ValueType, sent: Location) -> Parameter:
        """Return it as a parameter, which is `sent` there unless it says otherwise."""
        return Parameter(
            name=name,
            wire=self.wire,
            location=self.location or sent,
            type=value_type,
            schema=self._schema(value_type),
            description=f"{self.description} ({self.unit})" if self.unit else self.description,
            expected=self._expected(value_type),
            example=self._example(value_type),
            unit=self.unit,
            required=self.required,
            secret=self.secret,
        )

    def _schema(self, value_type: ValueType) -> Schema:
        choices: Schema = {"enum": [*self.enum]} if self.enum else {}
        if choices and value_type.schema["type"] == "array":
            choices = {"items": {"type": "string", **choices}}
        names = ("minimum", "maximum", "default")
        facts: Schema = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in facts.items() if value is not None}
        return {**value_type.schema, **choices, **given}

    def _expected(self, value_type: ValueType) -> str:
        words = value_type.expected
        if self.enum:
            return f"{words} {', '.join(map(str, self.enum))}"
        if self.unit:
            words += f" of {self.unit}"
        if self.minimum is None:
            return words
        if self.maximum is None:
            return f"{words}, {self.minimum} or more"
        return f"{words} from {self.minimum} to {self.maximum}"

    def _example(self, value_type: ValueType) -> Json:
        for known in (self.example, self.default, value_type.example):
            if known is not None:
                return known
        is_list = value_type.schema["type"] == "array"
        return [*self.enum[:1]] if self.enum and is_list else next(iter(self.enum), None)


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class _File:
    """An operation as its file has it."""

    title: str
    description: _Text
    effect: Effect
    method: Literal["GET", "POST", "DELETE"]
    path: str
    returns: Literal["call", "calls", "deleted"]
    reference: str
    parameters: dict[str, _Row]
    rules: tuple[Rule, ...] = ()


@cache
def load_operations(directory: Path = CONFIG) -> Mapping[str, Operation]:
    """The operations by name, in the order of their names.

    Raises:
        CatalogError: A file has an unknown key, type or parameter in it, or lacks one.
    """
    types = _read(directory / "types.toml", TypeAdapter(dict[str, ValueType]))
    adapter = TypeAdapter(_File)
    files = sorted((directory / "operations").glob("*.toml"))
    return {file.stem: _operation(file, _read(file, adapter), types) for file in files}


def _read(file: Path, adapter: TypeAdapter[_Read]) -> _Read:
    try:
        return adapter.validate_python(tomllib.loads(file.read_text("utf-8")))
    except tomllib.TOMLDecodeError as wrong:
        raise CatalogError(file.name, f"TOML: {wrong}") from wrong
    except ValidationError as invalid:
        raise CatalogError(file.name, *map(_fault, invalid.errors(include_url=False))) from None


def _fault(error: ErrorDetails) -> str:
    told = f", not {error['input']!r}" if error["type"] == "literal_error" else ""
    return f"{'.'.join(map(str, error['loc']))}: {reason(error)}{told}"


def _operation(file: Path, read: _File, types: Mapping[str, ValueType]) -> Operation:
    for name, row in read.parameters.items():
        if row.type not in types:
            raise CatalogError(file.name, f"parameters.{name}.type: unknown type {row.type!r}")
        if not row.wire and row.location != "own":
            raise CatalogError(file.name, f"parameters.{name}: has no wire name")
    for rule in read.rules:
        if unknown := {*rule.parameters, rule.given} - {*read.parameters, ""}:
            problem = f"unknown parameter {', '.join(sorted(unknown))}"
            raise CatalogError(file.name, f"rules.{rule.rule}: {problem}")
    sent: Location = "form" if read.method == "POST" else "query"
    return Operation(
        name=file.stem,
        title=read.title,
        description=read.description,
        effect=read.effect,
        method=read.method,
        path=read.path,
        returns=read.returns,
        reference=read.reference,
        parameters={
            name: row.parameter(name, types[row.type], sent)
            for name, row in read.parameters.items()
        },
        rules=read.rules,
    )
