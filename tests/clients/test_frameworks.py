"""The agent frameworks' own adapters; the test takes the place of the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conversation import conversing, needs_client
from tests.clients.walk import PLACE, blunder, refuse, sids, token, walk
from tests.harness import open_harness

pytestmark = [pytest.mark.anyio, pytest.mark.clients]

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Framework:
    """How a framework presents a server."""

    name: str
    asks: bool = True
    """Whether its program can ask its user."""
    drops: frozenset[str] = field(default_factory=frozenset[str])
    """The keywords of a parameter's schema that its model is not told."""
    marks_errors: bool = True
    """Whether what it hands its model is marked as an error."""
    structures_errors: bool = True
    """Whether its program gets the structured content of an error."""


LLAMA_INDEX = Framework(
    "llama-index", asks=False, drops=frozenset({"maximum", "maxLength", "minimum", "pattern"})
)
FRAMEWORKS = [
    Framework("langchain", structures_errors=False),
    Framework("openai-agents", asks=False, marks_errors=False, structures_errors=False),
    Framework("pydantic-ai", structures_errors=False),
    Framework("google-adk"),
    LLAMA_INDEX,
]
_FENCE = ("<<<BEGIN_UNTRUSTED_TOOL_DESCRIPTION>>>\n", "\n<<<END_UNTRUSTED_TOOL_DESCRIPTION>>>")

_ALL = [pytest.param(f, id=f.name, marks=needs_client(f.name)) for f in FRAMEWORKS]
each = pytest.mark.parametrize("framework", _ALL)
each_asking = pytest.mark.parametrize(
    "framework", [param for param, f in zip(_ALL, FRAMEWORKS, strict=True) if f.asks]
)


@each
async def test_a_model_is_shown_every_parameter_with_its_bounds_and_every_fault_of_a_bad_call(
    framework: Framework, tmp_path: Path
) -> None:
    async with open_harness() as harness, harness.connect() as agent:
        published = {tool.name: tool for tool in (await agent.client.list_tools()).tools}
    async with conversing(framework.name, tmp_path) as driven:
        shown = driven.about["tools"]
        answer = await blunder(driven)
    assert answer.failed == framework.marks_errors
    assert (answer.structured is not None) == framework.structures_errors
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


@each
async def test_an_agent_without_elicitation_confirms_by_token(
    framework: Framework, tmp_path: Path, sandbox: str
) -> None:
    url = sandbox if framework is LLAMA_INDEX else ""
    async with conversing(framework.name, tmp_path, url=url) as driven:
        await walk(driven, asks=False)


@needs_client("pydantic-ai")
async def test_pydantic_ai_shows_its_model_the_structured_content_and_no_text(
    tmp_path: Path,
) -> None:
    async with conversing("pydantic-ai", tmp_path) as driven:
        answer = await driven.call("list_calls", limit=1)
    assert answer.seen.startswith('{"outcome":"done"')
    assert "newest first" not in answer.seen


@needs_client("openai-agents")
async def test_openai_agents_hide_the_faults_and_require_all_arguments_in_strict_mode(
    tmp_path: Path,
) -> None:
    async with conversing("openai-agents", tmp_path) as driven:
        answer = await driven.call("fetch_call")
    assert answer.seen == "An error occurred while running the tool. Please try again."
    for tool in driven.about["strictly"].values():
        assert tool["strict"] is True
        assert tool["parameters"]["required"] == list(tool["parameters"]["properties"])


@needs_client("llama-index")
async def test_llama_index_starts_a_server_for_each_request_on_stdio_and_a_token_outlives_it(
    tmp_path: Path,
) -> None:
    async with conversing("llama-index", tmp_path) as driven:
        shown = await driven.call("create_call", **PLACE)
        answer = await driven.call("create_call", **PLACE, confirmation_token=token(shown))
    assert len(sids(answer)) == 1


@needs_client("llama-index")
async def test_llama_index_allows_null_and_the_server_accepts_it(
    tmp_path: Path, sandbox: str
) -> None:
    async with conversing("llama-index", tmp_path, url=sandbox) as driven:
        answer = await driven.call("list_calls", to=None)
    shown = driven.about["tools"]["list_calls"]["parameters"]["properties"]["to"]
    assert {"type": "null"} in shown["anyOf"]
    assert "newest first" in answer.seen
