"""A policy file → `Policy`, or every fault of it with its line."""

from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter
from pydantic_core import ErrorDetails

from calls_mcp.guard.policy.rules import Policy
from calls_mcp.tools.catalog import CONFIG
from calls_mcp.tools.toml_files import Table, checked, parse, places, read, reason

_SHIPPED = CONFIG / "policy.toml"


def load_policy(file: Path | None = None) -> Policy:
    """The policy in `file`, and in the shipped one whatever `file` leaves out.

    Raises:
        FileError: Naming everything that is wrong with the file.
    """
    file = file or _SHIPPED
    text = read(file)
    given = parse(file, text)
    whole = _overlaid(parse(_SHIPPED, read(_SHIPPED)), given)
    return checked(file, text, _adapter(), whole, _words)


def itemize(file: Path | None = None) -> list[tuple[str, object, bool]]:
    """Each rule by its dotted name: what it is set to, and whether `file` sets it.

    Raises:
        FileError: As `load_policy`.
    """
    load_policy(file)
    given = parse(file, read(file)) if file else {}
    own = {name for name, _ in _flat(given)}
    whole = _overlaid(parse(_SHIPPED, read(_SHIPPED)), given)
    return [(name, value, name in own) for name, value in _flat(whole)]


def _flat(table: Table, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(cast("Table", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@cache
def _adapter() -> TypeAdapter[Policy]:
    return TypeAdapter(Policy)


def _overlaid(base: Table, given: Table) -> Table:
    """`base` with the keys of `given` in place of its own, section by section."""
    both = {name for name in given if isinstance(given[name], dict) and name in base}
    return base | given | {name: _overlaid(base[name], given[name]) for name in both}


def _words(error: ErrorDetails) -> str:
    key = ".".join(part for part in error["loc"] if isinstance(part, str))
    if error["type"] == "unexpected_keyword_argument":
        return _unknown(key, is_section=isinstance(error["input"], dict))
    if error["type"] == "dataclass_type":
        return f"{key} should be a section"
    items = "".join(f"[{part}]" for part in error["loc"] if isinstance(part, int))
    return f"{key}{items} {reason(error).replace('a valid tuple', 'an array')}"


def _unknown(key: str, *, is_section: bool) -> str:
    known = [".".join(map(str, place)) for place in places(read(_SHIPPED))]
    meant = get_close_matches(key, known, n=1)
    what = f"section [{key}]" if is_section else f"key {key}"
    return f"unknown {what}" + (f"; did you mean {meant[0]}?" if meant else "")
