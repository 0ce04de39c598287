"""The size of what a model reads, in tokens (o200k)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from tests.benchmarks.api import emulator
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.stdio_server import OURS, StdioServer

_SHOWN = ("name", "description", "inputSchema")


def measurements() -> Iterator[Measurement]:
    """Count the tokens. They don't vary between rounds."""
    with emulator() as url, StdioServer(OURS, url) as server:
        tools = server.request("tools/list", {})["tools"]
        listed = server.request("tools/call", {"name": "list_calls", "arguments": {}})
    yield from budgets(tools, listed)


def budgets(tools: Sequence[Mapping[str, Any]], listed: Mapping[str, Any]) -> Iterator[Measurement]:
    """Count the tokens of the tools and the default page of `list_calls`, with their budgets."""
    text, content = listed["content"][0]["text"], _json(listed["structuredContent"])
    shown = [{key: tool[key] for key in _SHOWN} for tool in tools]
    yield _tokens("tool definitions, as a model sees them", 2700, *map(_json, shown))
    yield _tokens("tool definitions, everything", 4400, *map(_json, tools))
    yield _tokens("a list of 50 calls, text", 3000, text)
    yield _tokens("a list of 50 calls, structured", 7500, content)
    yield _tokens("a list of 50 calls, everything", 10_000, text, content)


def _tokens(name: str, goal: float, *texts: str) -> Measurement:
    return Measurement(name, "tokens", goal, [sum(map(count, texts))], is_absolute=True)


def count(text: str) -> int:
    """Return the number of tokens in a text."""
    from rs_bpe.bpe import openai  # pyright: ignore[reportUnknownVariableType]  # noqa: PLC0415  # untyped, and not everywhere

    return cast("int", openai.o200k_base().count(text))  # pyright: ignore[reportUnknownMemberType]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
