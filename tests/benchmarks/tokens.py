"""What a model reads, in tokens of o200k."""

import json
from collections.abc import Iterator
from typing import cast

from rs_bpe.bpe import openai  # pyright: ignore[reportUnknownVariableType]  # it has no types

from tests.benchmarks.figure import Figure
from tests.benchmarks.peer import OURS, Peer
from tests.benchmarks.upstream import emulator

_SHOWN = ("name", "description", "inputSchema")


def figures() -> Iterator[Figure]:
    """All figures; none of them varies."""
    with emulator() as url, Peer(OURS, url) as peer:
        tools = peer.request("tools/list", {})["tools"]
        listed = peer.request("tools/call", {"name": "list_calls", "arguments": {"limit": 50}})
    shown = [{key: tool[key] for key in _SHOWN} for tool in tools]
    yield _tokens("tool definitions, as a model sees them", 2600, *map(_json, shown))
    yield _tokens("tool definitions, everything", 4200, *map(_json, tools))
    yield _tokens("a list of 50 calls, text", 3000, listed["content"][0]["text"])
    yield _tokens("a list of 50 calls, structured", 7500, _json(listed["structuredContent"]))


def _tokens(name: str, goal: float, *texts: str) -> Figure:
    return Figure(name, "tokens", goal, [sum(map(_count, texts))], is_absolute=True)


def _count(text: str) -> int:
    return cast("int", openai.o200k_base().count(text))  # pyright: ignore[reportUnknownMemberType]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
