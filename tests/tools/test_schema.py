"""The published tools: flat schemas with all documented parameters, and no others."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal, cast

import pytest
from jsonschema import Draft202012Validator

from calls_mcp.emulator import past_calls
from calls_mcp.tools.catalog import load_operations
from tests.benchmarks.tokens import budgets
from tests.generate import SNAPSHOTS, Property, definitions, snapshots
from tests.harness import ERAS, Agent, Harness, User, placing
from tests.strategies import DOCUMENTED, PARAMETERS, TOOLS, satisfies

OWN = {
    "create_call": {"confirmation_token", "say"},
    "delete_call": {"confirmation_token"},
    "fetch_call": {"wait_until", "wait_seconds"},
    "list_calls": {"cursor"},
    "update_call": {"confirmation_token", "say"},
}
AVOIDED = {
    *("oneOf", "anyOf", "allOf", "if", "then", "else", "not", "$ref", "$defs", "const"),
    *("exclusiveMinimum", "exclusiveMaximum", "format", "patternProperties", "$dynamicRef"),
}


def published(tool: str) -> dict[str, Property]:
    return definitions()[tool]["inputSchema"]["properties"]


def every_schema(schema: object) -> Iterator[dict[str, object]]:
    """A schema and all its subschemas."""
    if isinstance(schema, dict):
        node = cast("dict[str, object]", schema)
        yield node
        for value in node.values():
            yield from every_schema(value)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_published_definition_equals_its_snapshot(tool: str) -> None:
    path = SNAPSHOTS / f"{tool}.json"
    assert snapshots()[path] == path.read_text("utf-8"), "run python -m tests.generate"


def test_there_is_a_snapshot_for_each_tool_and_no_other() -> None:
    assert {*SNAPSHOTS.iterdir()} == {*snapshots()}
    assert [*definitions()] == [*TOOLS]


@pytest.mark.parametrize(("tool", "name"), PARAMETERS)
def test_a_documented_parameter_is_published_as_documented(tool: str, name: str) -> None:
    documented, offered = DOCUMENTED[tool]["parameters"][name], published(tool)[name]
    assert offered["type"] == documented["type"]
    assert offered.get("enum") == documented.get("enum")
    assert offered.get("items", {}).get("enum") == documented.get("items_enum")
    for keyword in ("minimum", "maximum", "default"):
        if keyword in documented:
            assert offered.get(keyword) == documented.get(keyword)
    required = definitions()[tool]["inputSchema"].get("required", [])
    assert (name in required) is documented.get("required", False)


@pytest.mark.parametrize(
    ("tool", "name"), [p for p in PARAMETERS if "prefix" in DOCUMENTED[p[0]]["parameters"][p[1]]]
)
def test_a_sid_is_its_prefix_and_32_hex_digits(tool: str, name: str) -> None:
    prefix = DOCUMENTED[tool]["parameters"][name].get("prefix")
    assert published(tool)[name].get("pattern") == f"^{prefix}[0-9a-fA-F]{{32}}$"


def test_a_documented_length_is_published_as_a_length_or_by_a_pattern() -> None:
    assert published("create_call")["twiml"].get("maxLength") == 4000
    digits = published("create_call")["send_digits"].get("pattern", "")
    assert re.search(digits, "1" * 32)
    assert not re.search(digits, "1" * 33)


def test_all_documented_lengths_are_tested() -> None:
    lengths = {
        (tool, name): DOCUMENTED[tool]["parameters"][name].get("max_length")
        for tool, name in PARAMETERS
    }
    assert {parameter: length for parameter, length in lengths.items() if length} == {
        ("create_call", "twiml"): 4000,
        ("create_call", "send_digits"): 32,
    }


@pytest.mark.parametrize("tool", TOOLS)
def test_only_documented_parameters_and_the_servers_own_are_published(tool: str) -> None:
    marked = {p.name for p in load_operations()[tool].parameters.values() if p.location == "own"}
    assert published(tool).keys() - DOCUMENTED[tool]["parameters"].keys() == OWN[tool] == marked


@pytest.mark.parametrize("tool", TOOLS)
def test_names_and_descriptions_fit_every_client(tool: str) -> None:
    definition = definitions()[tool]
    assert re.fullmatch("[a-zA-Z0-9_-]{1,40}", definition["name"])
    assert 0 < len(definition["description"]) <= 1024
    assert definition["title"]
    for name, schema in published(tool).items():
        assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", name)
        assert 0 < len(schema["description"]) <= 1024


@pytest.mark.parametrize("tool", TOOLS)
def test_an_input_schema_is_flat_and_closed(tool: str) -> None:
    schema = definitions()[tool]["inputSchema"]
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert schema.keys() <= {"type", "properties", "required", "additionalProperties"}
    for offered in schema["properties"].values():
        assert offered["type"] in ("string", "integer", "boolean", "array")
        assert ("items" in offered) is (offered["type"] == "array")


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("side", ["inputSchema", "outputSchema"])
def test_schemas_avoid_keywords_that_clients_reject(
    tool: str, side: Literal["inputSchema", "outputSchema"]
) -> None:
    schema = definitions()[tool][side]
    Draft202012Validator.check_schema(schema)
    for node in every_schema(schema):
        assert not node.keys() & AVOIDED
        if "properties" in node:
            properties = cast("dict[str, dict[str, object]]", node["properties"])
            assert all(isinstance(inner["type"], str) for inner in properties.values())
        if isinstance(node.get("type"), str):
            assert ("items" in node) is (node["type"] == "array")
        choices = cast("list[object]", node.get("enum", []))
        assert all(isinstance(choice, str) for choice in choices)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_default_satisfies_its_own_schema(tool: str) -> None:
    for schema in published(tool).values():
        if "default" in schema:
            assert satisfies(schema, schema["default"])


@pytest.mark.parametrize("tool", TOOLS)
def test_an_output_schema_is_an_object_with_an_outcome(tool: str) -> None:
    schema = definitions()[tool]["outputSchema"]
    assert schema["type"] == "object"
    assert schema["required"] == ["outcome"]


@pytest.mark.requirement("40")
def test_the_annotations_are_honest() -> None:
    hints = {
        tool: {hint for hint, holds in definition["annotations"].items() if holds}
        for tool, definition in definitions().items()
    }
    assert hints == {
        "create_call": {"openWorldHint"},
        "delete_call": {"openWorldHint", "destructiveHint", "idempotentHint"},
        "fetch_call": {"openWorldHint", "readOnlyHint", "idempotentHint"},
        "list_calls": {"openWorldHint", "readOnlyHint", "idempotentHint"},
        "update_call": {"openWorldHint", "destructiveHint"},
    }


@pytest.mark.parametrize("tool", TOOLS)
def test_all_annotations_are_explicit(tool: str) -> None:
    assert definitions()[tool]["annotations"].keys() == {
        *("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
    }


async def listed(agent: Agent) -> list[dict[str, object]]:
    tools = (await agent.client.list_tools()).tools
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]


@pytest.mark.requirement("14")
@pytest.mark.anyio
async def test_the_tools_are_the_same_for_every_client_and_protocol_version(
    harness: Harness,
) -> None:
    lists: list[list[dict[str, object]]] = []
    for era in ERAS:
        for name, user in (("alice", None), ("bob", User())):
            async with harness.connect(era, user, name) as agent:
                lists.append(await listed(agent))
                await agent.client.call_tool("create_call", placing())
                await agent.call("list_calls")
                lists.append(await listed(agent))
    assert lists == [[*definitions().values()]] * 8


@pytest.mark.anyio
@pytest.mark.skipif(find_spec("rs_bpe") is None, reason="no rs-bpe: pip install rs-bpe")
async def test_the_tools_and_a_page_of_calls_stay_within_their_token_budget(
    harness: Harness,
) -> None:
    harness.emulator.calls.add(*past_calls(1, 100, harness.clock()))
    async with harness.connect() as agent:
        tools = await agent.client.list_tools()
        listed = await agent.client.call_tool("list_calls")
    shown, page = (
        r.model_dump(mode="json", by_alias=True, exclude_none=True) for r in (tools, listed)
    )
    assert page["structuredContent"]["count"] == 50
    over = {f.name: f.result for f in budgets(shown["tools"], page) if not f.is_met}
    assert over == {}
