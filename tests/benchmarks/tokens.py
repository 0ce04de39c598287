"""What a model reads, in tokens of o200k."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from tests.benchmarks.api import emulator
from tests.benchmarks.figure import Figure
from tests.benchmarks.peer import OURS, Peer

_SHOWN = ("name", "description", "inputSchema")


def figures() -> Iterator[Figure]:
    """All figures; none of them varies."""
    with emulator() as url, Peer(OURS, url) as peer:
        tools = peer.request("tools/list", {})["tools"]
        listed = peer.request("tools/call", {"name": "list_calls", "arguments": {}})
    yield from budgets(tools, listed)


def budgets(tools: Sequence[Mapping[str, Any]], listed: Mapping[str, Any]) -> Iterator[Figure]:
    """What the tools cost, and the default page of `list_calls`, each with its budget."""
    text, content = listed["content"][0]["text"], _json(listed["structuredContent"])
    shown = [{key: tool[key] for key in _SHOWN} for tool in tools]
    yield _tokens("tool definitions, as a model sees them", 2600, *map(_json, shown))
    yield _tokens("tool definitions, everything", 4200, *map(_json, tools))
    yield _tokens("a list of 50 calls, text", 3000, text)
    yield _tokens("a list of 50 calls, structured", 7500, content)
    yield _tokens("a list of 50 calls, everything", 10_000, text, content)


def _tokens(name: str, goal: float, *texts: str) -> Figure:
    return Figure(name, "tokens", goal, [sum(map(_count, texts))], is_absolute=True)


def _count(text: str) -> int:
    from rs_bpe.bpe import openai  # pyright: ignore[reportUnknownVariableType]  # noqa: PLC0415  # untyped, and not everywhere

    return cast("int", openai.o200k_base().count(text))  # pyright: ignore[reportUnknownMemberType]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
