"""The five operations, read from `config/`: one file is one tool, one row is one parameter."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from calls_mcp.datafiles import CONFIG
from calls_mcp.errors import CatalogError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Schema = dict[str, Json]

Effect = Literal["read", "place", "change", "delete"]
Confirm = Literal["all", "destructive", "none", "operator"]
Location = Literal["path", "query", "form", "local", "own"]
Kind = Literal["number", "SIP address", "client", "SIM"]

Row = TypeVar("Row")

_PREFIXES: dict[str, Kind] = {
    "+": "number",
    "sip:": "SIP address",
    "sips:": "SIP address",
    "client:": "client",
    "sim:": "SIM",
}


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


@cache
def load_operations(directory: Path = CONFIG) -> Mapping[str, Operation]:
    """The operations by name, in the order of their names.

    Raises:
        CatalogError: A file has an unknown key, type or parameter in it, or lacks one.
    """
    types = _load_types(directory / "types.toml")
    files = sorted((directory / "operations").glob("*.toml"))
    return {file.stem: _Reader(file, types).operation() for file in files}


def _load_types(file: Path) -> dict[str, ValueType]:
    rows = _load(file)
    return {name: _build(file, name, ValueType, row) for name, row in rows.items()}


class _Reader:
    """Reads one operation's file."""

    def __init__(self, file: Path, types: Mapping[str, ValueType]) -> None:
        self._file = file
        self._types = types
        self._table = _load(file)

    def operation(self) -> Operation:
        table: dict[str, Any] = {**self._table, "name": self._file.stem}
        if not self._table.get("description"):
            raise CatalogError(self._file.name, "operation", "has no description")
        table["description"] = " ".join(str(table["description"]).split())
        rows: dict[str, dict[str, Json]] = table.get("parameters", {})
        sent: Location = "form" if table.get("method") == "POST" else "query"
        parameters = {name: self._parameter(name, row, sent) for name, row in rows.items()}
        table["parameters"] = parameters
        table["rules"] = tuple(self._rule(row, parameters) for row in table.get("rules", []))
        return _build(self._file, "operation", Operation, table)

    def _parameter(self, name: str, row: dict[str, Json], sent: Location) -> Parameter:
        type_name = str(row.pop("type", ""))
        if type_name not in self._types:
            problem = f"unknown type {type_name!r}"
            raise CatalogError(self._file.name, f"parameters.{name}.type", problem)
        if not row.get("description"):
            raise CatalogError(self._file.name, f"parameters.{name}", "has no description")
        value_type = self._types[type_name]
        facts = _Facts(value_type, row)
        fields = {
            "name": name,
            "wire": "",
            "location": row.pop("in", sent),
            "type": value_type,
            "schema": facts.schema(),
            "description": facts.description(),
            "expected": facts.expected(),
            "example": facts.example(),
            "unit": "",
            "required": False,
            "secret": False,
        }
        rest = {key: value for key, value in row.items() if key not in _Facts.KEYS}
        parameter = _build(self._file, f"parameters.{name}", Parameter, fields | rest)
        if not parameter.wire and parameter.location != "own":
            raise CatalogError(self._file.name, f"parameters.{name}", "has no wire name")
        return parameter

    def _rule(self, row: dict[str, Json], parameters: Mapping[str, Parameter]) -> Rule:
        rule = _build(self._file, "rules", Rule, row)
        rule = _build(self._file, "rules", Rule, row | {"parameters": tuple(rule.parameters)})
        unknown = {*rule.parameters, rule.given} - {*parameters, ""}
        if unknown:
            problem = f"unknown parameter {', '.join(sorted(unknown))}"
            raise CatalogError(self._file.name, f"rules.{rule.rule}", problem)
        return rule


class _Facts:
    """What a parameter's row adds to its type: bounds, choices, default, unit, example."""

    KEYS = frozenset({"description", "enum", "minimum", "maximum", "default", "example"})

    def __init__(self, value_type: ValueType, row: Mapping[str, Json]) -> None:
        self._type = value_type
        self._row = row

    def schema(self) -> Schema:
        bounds: Schema = {k: self._row[k] for k in ("minimum", "maximum") if k in self._row}
        choices: Schema = {"enum": self._row["enum"]} if "enum" in self._row else {}
        if choices and self._type.schema["type"] == "array":
            choices = {"items": {"type": "string", **choices}}
        default: Schema = {"default": self._row["default"]} if "default" in self._row else {}
        return {**self._type.schema, **bounds, **choices, **default}

    def description(self) -> str:
        unit = f" ({self._row['unit']})" if "unit" in self._row else ""
        return f"{self._row.get('description', '')}{unit}"

    def expected(self) -> str:
        words = self._type.expected
        if choices := self._choices():
            return f"{words} {', '.join(map(str, choices))}"
        if "unit" in self._row:
            words += f" of {self._row['unit']}"
        if "minimum" in self._row:
            low, high = self._row["minimum"], self._row.get("maximum")
            words += f", {low} or more" if high is None else f" from {low} to {high}"
        return words

    def example(self) -> Json:
        known = self._row.get("example", self._row.get("default", self._type.example))
        choices = self._choices()
        if known is not None or not choices:
            return known
        return choices[:1] if self._type.schema["type"] == "array" else choices[0]

    def _choices(self) -> list[Json]:
        choices = self._row.get("enum", [])
        return choices if isinstance(choices, list) else []


def _load(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as wrong:
        raise CatalogError(file.name, "TOML", str(wrong)) from wrong


def _build(file: Path, pointer: str, cls: type[Row], fields: Mapping[str, object]) -> Row:
    for name, choices in _choices(cls).items():
        if name in fields and fields[name] not in choices:
            problem = f"is {fields[name]!r}, but must be one of {', '.join(choices)}"
            raise CatalogError(file.name, f"{pointer}.{name}", problem)
    try:
        return cls(**fields)
    except TypeError as wrong:  # an unknown or a missing key
        raise CatalogError(file.name, pointer, str(wrong).partition(") ")[2]) from wrong


@cache
def _choices(cls: type) -> Mapping[str, tuple[str, ...]]:
    """The fields of `cls` that must have one of some values, with those values."""
    hints = get_type_hints(cls)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
