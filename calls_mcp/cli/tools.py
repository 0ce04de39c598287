"""`calls-mcp tools`: the tools as a model sees them, and what they cost it."""

import json
import shutil
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import Any, cast

import anyio
from mcp import Client
from mcp_types import Tool

from calls_mcp.cli.options import add_json
from calls_mcp.cli.terminal import painted, say, show_json
from calls_mcp.cli.token_count import Counter, counter
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability.redaction import quoted
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Access, load_settings
from calls_mcp.tools.catalog import Json

_SEEN = ("name", "description", "inputSchema")
_NOWHERE = Access("http://127.0.0.1", "", "", "", timeout=1, deadline=1)  # nothing is asked of it
_WIDEST = 100

_Definition = Mapping[str, Any]


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("tool", nargs="*", help="only these")
    add_json(parser, "the definitions")
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Show the tools that were named, or all that the settings offer.

    Raises:
        ConfigurationError: There is no such tool.
    """
    names: list[str] = options.tool
    offered = anyio.run(_listed, load_settings().guard.read_only)
    if unknown := [name for name in names if name not in offered]:
        known = ", ".join(offered)
        raise ConfigurationError(f"There is no tool {quoted(unknown[0], 64)}; there are: {known}.")
    shown = [offered[name] for name in names] or [*offered.values()]
    tokens = counter()
    costs = [tokens.count(_compact(definition)) for definition in shown]
    if options.json:
        show_json(_report(shown, costs, tokens))
    else:
        _tell(shown, costs, tokens)
    return 0


async def _listed(read_only: bool) -> dict[str, _Definition]:  # noqa: FBT001
    runtime = Runtime(load_settings({"CALLS_MCP_READ_ONLY": read_only}), _NOWHERE)
    async with Client(build_server(runtime)) as client:
        tools = (await client.list_tools()).tools
    return {tool.name: _seen(tool) for tool in tools}


def _seen(tool: Tool) -> _Definition:
    """What a host hands on to its model."""
    whole = tool.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: whole[key] for key in _SEEN}


def _compact(definition: _Definition) -> str:
    return json.dumps(definition, ensure_ascii=False, separators=(",", ":"))


def _report(shown: list[_Definition], costs: list[int], tokens: Counter) -> dict[str, object]:
    return {
        "tools": [
            {**definition, "tokens": cost} for definition, cost in zip(shown, costs, strict=True)
        ],
        "tokens": sum(costs),
        "tokenizer": tokens.name,
    }


def _tell(shown: list[_Definition], costs: list[int], tokens: Counter) -> None:
    about = "" if tokens.is_exact else "about "
    for definition, cost in zip(shown, costs, strict=True):
        say(f"{painted(definition['name'], 'bold')}  {about}{cost:,} tokens")
        for line in _described(definition):
            say(line)
        say()
    tools = "1 tool" if len(shown) == 1 else f"{len(shown)} tools"
    say(f"{tools}, {about}{sum(costs):,} tokens ({_measure(tokens)})")


def _measure(tokens: Counter) -> str:
    if tokens.is_exact:
        return tokens.name
    return (
        "an estimate; to have them counted: pip install 'calls-mcp[tokens]', or in a checkout: "
        "pip install '.[tokens]'"
    )


def _described(definition: _Definition) -> Iterator[str]:
    width = min(_WIDEST, shutil.get_terminal_size((_WIDEST, 0)).columns)
    yield from textwrap.wrap(definition["description"], width, **_indented("  "))
    schema = cast("Mapping[str, Any]", definition["inputSchema"])
    required = cast("list[str]", schema.get("required", []))
    properties = cast("Mapping[str, Mapping[str, Json]]", schema["properties"])
    longest = max(map(len, properties))
    for name, facts in properties.items():
        words = [_type(facts), "required" if name in required else "", str(facts["description"])]
        line = f"{name:<{longest}}  {' · '.join(word for word in words if word)}"
        yield from textwrap.wrap(line, width, **_indented("    ", longest + 2))


def _indented(indent: str, more: int = 0) -> dict[str, Any]:
    further = indent + " " * more
    return {
        "initial_indent": indent,
        "subsequent_indent": further,
        "break_on_hyphens": False,
        "break_long_words": False,
    }


def _type(facts: Mapping[str, Json]) -> str:
    items = facts.get("items")
    choices = items.get("enum") if isinstance(items, Mapping) else facts.get("enum")
    words = [str(facts["type"])]
    if isinstance(choices, list):
        words.append("|".join(map(str, choices)))
    if "minimum" in facts:
        words.append(f"{facts['minimum']}…{facts.get('maximum', '')}")
    if "default" in facts:
        words.append(f"default {json.dumps(facts['default'])}")
    return " ".join(words)
