"""`calls-mcp tools`: show the tools as a model sees them, and their cost in tokens."""

import json
import math
import re
import shutil
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import Any, cast

import anyio
from mcp import Client
from mcp_types import Tool

from calls_mcp.cli.options import add_json
from calls_mcp.cli.terminal import painted, say, show_json, show_table
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability.redaction import quoted
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Access, Settings, load_settings
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.humanize import counted

_EPILOG = """\
examples:
  calls-mcp tools
  calls-mcp tools create_call
  calls-mcp tools --json

The numbers of tokens are estimates.
"""
_VISIBLE = ("name", "description", "inputSchema")
_NO_API = Access("http://127.0.0.1", "", "", "", timeout=1, deadline=1)  # nothing is sent there
_WIDEST = 100
_CHARACTERS_PER_TOKEN = 4.1  # of OpenAI's o200k, in our definitions

_Definition = Mapping[str, Any]


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "tool", nargs="*", metavar="TOOL", help="describe these tools (default: list all)"
    )
    add_json(parser, "the definitions")
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """List the tools that the settings offer, or describe the named ones. Return the exit status.

    Raises:
        ConfigurationError: There is no such tool.
    """
    names: list[str] = options.tool
    offered = anyio.run(_offered, load_settings())
    if unknown := [name for name in names if name not in offered]:
        known = ", ".join(offered)
        raise ConfigurationError(f"Unknown tool {quoted(unknown[0], 64)}. The tools are {known}.")
    shown = [offered[name] for name in names] or [*offered.values()]
    total = sum(map(_tokens, shown))
    if options.json:
        tools = [{**definition, "tokens": _tokens(definition)} for definition in shown]
        show_json({"tools": tools, "tokens": total})
        return 0
    (_show if names else _show_list)(shown)
    say(f"{counted(len(shown), 'tool')}, about {total:,} tokens")
    if not names:
        say("For the arguments of a tool: calls-mcp tools TOOL")
    return 0


async def _offered(settings: Settings) -> dict[str, _Definition]:
    async with Client(build_server(Runtime(settings, _NO_API))) as client:
        tools = (await client.list_tools()).tools
    return {tool.name: _visible(tool) for tool in tools}


def _tokens(definition: _Definition) -> int:
    """Return about how many tokens a definition has, as compact JSON."""
    text = json.dumps(definition, ensure_ascii=False, separators=(",", ":"))
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


def _visible(tool: Tool) -> _Definition:
    """Return what a host passes to its model."""
    whole = tool.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: whole[key] for key in _VISIBLE}


def _show(shown: list[_Definition]) -> None:
    for definition in shown:
        say(f"{painted(definition['name'], 'bold')}  about {_tokens(definition):,} tokens")
        for line in _described(definition):
            say(line)
        say()


def _show_list(shown: list[_Definition]) -> None:
    rows = [
        (tool["name"], f"about {_tokens(tool):,}", _first_sentence(tool["description"]))
        for tool in shown
    ]
    show_table(("tool", "tokens", "description"), rows)
    say()


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.])\s", text, maxsplit=1)[0]


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
