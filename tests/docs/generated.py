"""Generated parts of the docs: settings, tool reference, TwiML, Twilio error codes."""

import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr

from calls_mcp.emulator.voice.twiml_elements import ELEMENTS
from calls_mcp.settings import Settings
from calls_mcp.tools.catalog import CONFIG, Operation, Parameter, load_operations
from calls_mcp.tools.tool_reference import describe_rule
from release.project import registry_name
from tests.docs.pages import COLUMNS, README, ROOT

DOCS = ROOT / "docs"


def pages() -> dict[Path, str]:
    """Return each page that has generated parts, with those parts up to date."""
    return {page: _generated(page) for page in _PLACES}


def _generated(page: Path) -> str:
    text = page.read_text("utf-8")
    text = re.sub(r"(?<=<!-- mcp-name: )\S+(?= -->)", registry_name(), text)
    for name, lines in _PLACES[page].items():
        made = f"<!-- {name}: made by python -m tests.generate -->"
        part = "\n".join([made, *lines(), f"<!-- /{name} -->"])
        text, count = re.subn(rf"(?s){made}.*<!-- /{name} -->", lambda _, p=part: p, text)
        assert count == 1, f"{page.name} has no part {name}"
    return text


def _settings() -> Iterator[str]:
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for name, field in Settings.variables().items():
        shown = "" if field.default is None else _plain(_revealed(field.default))
        yield f"| `{name}` | {f'`{shown}`' if shown else ''} | {field.description} |"


def _revealed(default: object) -> object:
    return default.get_secret_value() if isinstance(default, SecretStr) else default


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tools() -> Iterator[str]:
    for operation in load_operations().values():
        yield ""
        yield f"### {operation.name}"
        yield ""
        yield _wrapped(operation.description)
        yield ""
        yield "| argument | type | meaning |"
        yield "|---|---|---|"
        yield from map(_row, operation.parameters.values())
        yield from _rules(operation)
    yield ""


def _row(parameter: Parameter) -> str:
    required = " **Required.**" if parameter.required else ""
    return f"| `{parameter.name}` | {_type(parameter)} | {parameter.description}.{required} |"


def _type(parameter: Parameter) -> str:
    schema = parameter.schema
    items = schema.get("items")
    words = [str(schema["type"])]
    choices = items.get("enum") if isinstance(items, Mapping) else schema.get("enum")
    if isinstance(choices, list):
        words.append(" ".join(f"`{choice}`" for choice in choices))
    if "minimum" in schema:
        words.append(f"{schema['minimum']}…{schema.get('maximum', '')}")
    if "maxLength" in schema:
        words.append(f"at most {schema['maxLength']} characters")
    if "default" in schema:
        default = schema["default"]
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        words.append(f"default `{str(shown).lower() if isinstance(shown, bool) else shown}`")
    return ", ".join(words)


def _rules(operation: Operation) -> Iterator[str]:
    if not operation.rules:
        return
    yield ""
    yield from (_wrapped(f"- {describe_rule(rule)}", "  ") for rule in operation.rules)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, COLUMNS, subsequent_indent=indent, break_on_hyphens=False)


def _codes() -> Iterator[str]:
    yield "| code | hint for the agent |"
    yield "|---|---|"
    for code, hint in tomllib.loads((CONFIG / "errors.toml").read_text("utf-8")).items():
        yield f"| [{code}](https://www.twilio.com/docs/errors/{code}) | {hint} |"


def _twiml() -> Iterator[str]:
    yield "| element | executed | accepted |"
    yield "|---|---|---|"
    for path, known in ELEMENTS.items():
        element = "".join(f"<{name}>" for name in path.split("/"))
        if known.available:
            yield f"| `{element}` | {_attributes(known.executed)} | {_attributes(known.accepted)} |"
        else:
            yield f"| `{element}` | *not available* | |"


def _attributes(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split())


# The generated parts of each page.
_PLACES: Mapping[Path, Mapping[str, Callable[[], Iterator[str]]]] = {
    README: {},  # only the name in the MCP registry
    DOCS / "emulator.md": {"twiml": _twiml},
    DOCS / "settings.md": {"settings": _settings},
    DOCS / "tools.md": {"tools": _tools},
    DOCS / "troubleshooting.md": {"codes": _codes},
}
