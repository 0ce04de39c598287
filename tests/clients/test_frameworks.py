"""The agent frameworks' own adapters; the test takes the place of the model."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mcp_types import Tool

from tests.clients.conversation import Driven, conversing, needs_client
from tests.clients.walk import PLACE, blunder, refuse, sids, token, walk
from tests.harness import open_harness
from tests.http.replica import replica

pytestmark = [pytest.mark.anyio, pytest.mark.clients]

Schema = Mapping[str, Any]


async def nothing_else(_driven: Driven) -> None:
    """Check nothing."""


async def structured_content_replaces_text(driven: Driven) -> None:
    """Check that the model is shown the structured content and no text."""
    answer = await driven.call("list_calls", limit=1)
    assert answer.seen.startswith('{"outcome":"done"')
    assert "newest first" not in answer.seen


async def strict_mode_hides_faults_and_requires_all_arguments(driven: Driven) -> None:
    answer = await driven.call("fetch_call")
    assert answer.seen == "An error occurred while running the tool. Please try again."
    for tool in driven.about["strictly"].values():
        assert tool["strict"] is True
        assert tool["parameters"]["required"] == list(tool["parameters"]["properties"])


async def null_is_allowed_and_accepted(driven: Driven) -> None:
    shown = driven.about["tools"]["list_calls"]["parameters"]["properties"]["to"]
    assert {"type": "null"} in shown["anyOf"]
    assert "newest first" in (await driven.call("list_calls", to=None)).seen


@dataclass(frozen=True)
class Framework:
    """How a framework presents a server."""

    name: str
    asks: bool = True
    """Whether its program can ask its user."""
    over_http: bool = False
    """Whether it is tested over HTTP, because on stdio it starts a server for each request."""
    drops: frozenset[str] = field(default_factory=frozenset[str])
    """The keywords of a parameter's schema that its model does not get."""
    marks_errors: bool = True
    """Whether what it hands its model is marked as an error."""
    structures_errors: bool = True
    """Whether its program gets the structured content of an error."""
    check: Callable[[Driven], Awaitable[None]] = nothing_else
    """Checks what only this framework does."""


FRAMEWORKS = [
    Framework("langchain", structures_errors=False),
    Framework(
        "openai-agents",
        asks=False,
        marks_errors=False,
        structures_errors=False,
        check=strict_mode_hides_faults_and_requires_all_arguments,
    ),
    Framework("pydantic-ai", structures_errors=False, check=structured_content_replaces_text),
    Framework("google-adk"),
    Framework(
        "llama-index",
        asks=False,
        over_http=True,
        drops=frozenset({"maximum", "maxLength", "minimum", "pattern"}),
        check=null_is_allowed_and_accepted,
    ),
]
_FENCE = ("<<<BEGIN_UNTRUSTED_TOOL_DESCRIPTION>>>\n", "\n<<<END_UNTRUSTED_TOOL_DESCRIPTION>>>")

_ALL = [pytest.param(f, id=f.name, marks=needs_client(f.name)) for f in FRAMEWORKS]
each = pytest.mark.parametrize("framework", _ALL)
each_asking = pytest.mark.parametrize(
    "framework", [param for param, f in zip(_ALL, FRAMEWORKS, strict=True) if f.asks]
)


@each
async def test_a_model_is_shown_every_parameter_and_fault_and_confirms_by_token_without_elicitation(
    framework: Framework, tmp_path: Path
) -> None:
    async with open_harness() as harness, harness.connect() as agent:
        published = {tool.name: tool for tool in (await agent.client.list_tools()).tools}
    async with AsyncExitStack() as stack:
        url = ""
        if framework.over_http:
            url = (await stack.enter_async_context(replica({}, "--sandbox"))).url
        driven = await stack.enter_async_context(conversing(framework.name, tmp_path, url=url))
        _compare(framework, driven.about["tools"], published)
        answer = await blunder(driven)
        assert answer.failed == framework.marks_errors
        assert (answer.structured is not None) == framework.structures_errors
        await walk(driven, asks=False)
        await framework.check(driven)


def _compare(
    framework: Framework, shown: Mapping[str, Schema], published: Mapping[str, Tool]
) -> None:
    """Check that the tools that the model is shown are those that the server published."""
    assert shown.keys() == published.keys()
    for name, tool in published.items():
        assert _bare(shown[name]["description"]) == tool.description
        parameters: Schema = shown[name]["parameters"]
        assert parameters.get("required", []) == tool.input_schema.get("required", [])
        properties: Mapping[str, Schema] = tool.input_schema["properties"]
        assert list(parameters["properties"]) == list(properties)
        for key, schema in properties.items():
            expected = {k: v for k, v in schema.items() if k not in framework.drops}
            assert _plain(parameters["properties"][key]) == expected


def _bare(description: str) -> str:
    """Return the text without the delimiters that the ADK adds."""
    return description.removeprefix(_FENCE[0]).removesuffix(_FENCE[1])


def _plain(schema: Schema) -> Schema:
    """Return the schema without what LlamaIndex adds: titles, and null for optional arguments."""
    either = schema.get("anyOf", [{}])[0]
    added = {"title", "anyOf", *(["default"] if either else [])}
    plain = {**either, **{k: v for k, v in schema.items() if k not in added}}
    return {**plain, "description": _bare(schema["description"])}


@each_asking
async def test_an_agent_places_and_deletes_only_the_calls_that_its_user_approves(
    framework: Framework, tmp_path: Path
) -> None:
    async with conversing(framework.name, tmp_path, user=("decline", "accept")) as driven:
        await refuse(driven)
        await walk(driven, asks=True)


@needs_client("llama-index")
async def test_llama_index_starts_a_server_for_each_request_on_stdio_and_a_token_outlives_it(
    tmp_path: Path,
) -> None:
    async with conversing("llama-index", tmp_path) as driven:
        shown = await driven.call("create_call", **PLACE)
        answer = await driven.call("create_call", **PLACE, confirmation_token=token(shown))
    assert len(sids(answer)) == 1
