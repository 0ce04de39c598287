"""The generated parts of the README: the settings and the tools' reference."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr

from calls_mcp.catalog import Operation, Parameter, load_operations
from calls_mcp.settings import Settings
from release.project import registry_name

README = Path(__file__).parent.parent / "README.md"


def readme_text() -> str:
    """The README with its generated parts made anew."""
    text = README.read_text("utf-8")
    text = re.sub(r"(?<=<!-- mcp-name: )\S+(?= -->)", registry_name(), text)
    for name, lines in {"settings": _settings(), "tools": _tools()}.items():
        made = f"<!-- {name}: made by python -m tests.generate -->"
        part = "\n".join([made, *lines, f"<!-- /{name} -->"])
        text, count = re.subn(rf"(?s){made}.*<!-- /{name} -->", lambda _, p=part: p, text)
        assert count == 1, f"the README has no place for the {name}"
    return text


def _settings() -> Iterator[str]:
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{_plain(_revealed(field.default))}`"
        yield f"| `{name.upper()}` | {default} | {field.description} |"


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
        yield operation.description
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
    for rule in operation.rules:
        names = ", ".join(f"`{name}`" for name in rule.parameters)
        yield (
            "- "
            + {
                "needs_one_of": f"At least one of {names} is needed.",
                "excludes": f"Only one of {names} may be given.",
                "must_match_kind": f"If `{rule.given}` is a {rule.kind}, {names} must be one.",
                "ignored_when": f"With `{rule.given}`, ignored: {names}.",
                "no_effect_without": f"Without `{rule.given}`, no effect: {names}.",
                "only_for_kind": f"Unless `{rule.given}` is a {rule.kind}, no effect: {names}.",
            }[rule.rule]
        )
