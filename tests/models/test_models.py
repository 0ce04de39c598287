"""The published tools satisfy the rules of the model APIs, and the checks detect bad tools."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.generate import definitions
from tests.harness import Harness, placing
from tests.models.checker import CHECKS, Tool, broken, faults
from tests.models.conversion import strict
from tests.models.rules import APIS

TOOLS = [
    Tool(name, definition["description"], {**definition["inputSchema"]})
    for name, definition in definitions().items()
]
TEXT: dict[str, Any] = {"type": "string", "description": "A word"}


def tool(schema: dict[str, Any] | None = None, /, **changes: object) -> Tool:
    """A tool that every API accepts, with changes; `schema` is that of its only argument."""
    root = {
        "type": "object",
        "properties": {"word": schema or TEXT},
        "required": ["word"],
        "additionalProperties": False,
    }
    name = str(changes.pop("name", "say"))
    description = str(changes.pop("description", "Says a word"))
    return Tool(name, description, root | changes)


def nested(levels: int) -> dict[str, Any]:
    inner = TEXT if levels == 0 else nested(levels - 1)
    return {**tool(inner).schema, "description": "An object"}


def named(count: int) -> dict[str, object]:
    """This number of arguments, all required."""
    names = [f"w{number}" for number in range(count)]
    return {"properties": dict.fromkeys(names, TEXT), "required": names}


def optional(count: int) -> dict[str, object]:
    return {**named(count), "required": []}


BAD: dict[str, dict[str, Tool]] = {
    "tool name": {
        **dict.fromkeys(APIS, tool(name="say it")),
        "openai": tool(name="x" * 65),
        "claude": tool(name="x" * 129),
        "gemini": tool(name="1st"),
    },
    "description length": dict.fromkeys(("openai", "openai strict"), tool(description="x" * 1025)),
    "root is an object": dict.fromkeys(APIS, tool(type="string")),
    "root without": {
        **dict.fromkeys(("claude", "claude strict"), tool(oneOf=[{"required": ["word"]}])),
        **dict.fromkeys(("openai", "openai strict"), tool(enum=["word"])),
    },
    "JSON Schema": dict.fromkeys(
        ("claude", "claude strict", "openai", "openai strict"), tool({"type": "text"})
    ),
    "tools": {},  # of a whole request, tested below
    "property name": {
        **dict.fromkeys(("claude", "claude strict"), tool(properties={"filter[a]": TEXT})),
        "gemini": tool(properties={"a-b": TEXT}, required=["a-b"]),
    },
    "keywords": {
        "openai strict": tool({**TEXT, "maxLength": 3}),
        "gemini": tool({"const": "word", "type": "string"}),
    },
    "without": {
        "claude strict": tool({"type": "integer", "minimum": 1}),
        "openai strict": tool({**TEXT, "default": "word"}),
    },
    "types": dict.fromkeys(
        ("claude strict", "openai strict", "gemini"), tool({"type": "file", "items": TEXT})
    ),
    "one type": {"gemini": tool({"type": ["string", "null"]})},
    "format": {
        "claude strict": tool({"type": "string", "format": "regex"}),
        "openai strict": tool({"type": "string", "format": "uri"}),
        "gemini": tool({"type": "string", "format": "uri"}),
    },
    "pattern": {"claude strict": tool({"type": "string", "pattern": r"^(?=a)\w+$"})},
    "closed": dict.fromkeys(("claude strict", "openai strict"), tool(additionalProperties=True)),
    "all required": {"openai strict": tool(required=[])},
    "required is known": {"gemini": tool(required=["word", "other"])},
    "items": {"gemini": tool({"type": "array"})},
    "minItems": {"claude strict": tool({"type": "array", "items": TEXT, "minItems": 2})},
    "enum of": {
        "claude strict": tool({"enum": [{"a": 1}]}),
        "gemini": tool({"type": "integer", "enum": [1, 2]}),
    },
    "enum characters": {
        "openai strict": tool({"type": "string", "enum": [f"{n:060}" for n in range(251)]})
    },
    "local $ref": {"claude strict": tool({"$ref": "https://example.com/word.json"})},
    "levels": {"openai strict": tool(nested(9))},
    "properties": {"openai strict": tool(**named(5001))},
    "characters": {"openai strict": tool({"type": "string", "enum": ["x" * 120_000]})},
    "enum values": {
        "openai strict": tool({"type": "string", "enum": [str(n) for n in range(1001)]})
    },
    "optional parameters": {"claude strict": tool(**optional(25))},
    "union types": {
        "claude strict": tool(
            properties={f"w{n}": {"type": ["string", "null"]} for n in range(17)},
            required=[f"w{n}" for n in range(17)],
        )
    },
}
CASES = [(check, api) for check, tools in BAD.items() for api in tools]


@pytest.mark.parametrize("api", ["claude", "openai", "gemini"])
def test_the_tools_satisfy_the_rules_of_each_model_api(api: str) -> None:
    assert faults(TOOLS, APIS[api]) == set()


def test_the_output_schemas_satisfy_the_rules_of_each_model_api() -> None:
    """Gemini and OpenAI accept one (`response`, `output_schema`)."""
    answers = [
        Tool(name, definition["description"], definition["outputSchema"])
        for name, definition in definitions().items()
    ]
    assert all(len(each.schema["properties"]) > 1 for each in answers)
    for api in ("openai", "gemini"):
        assert faults(answers, APIS[api]) == set()


def test_converted_tools_satisfy_openais_strict_mode() -> None:
    assert broken(TOOLS, APIS["openai strict"]) == {"all required", "keywords", "without"}
    assert faults([*map(strict, TOOLS)], APIS["openai strict"]) == set()


def test_all_five_tools_together_exceed_the_limits_of_claudes_strict_mode() -> None:
    """It allows 24 optional arguments per request, and create_call has more."""
    assert broken(TOOLS, APIS["claude strict"]) == {"optional parameters", "without"}
    reading = [each for each in TOOLS if each.name in ("fetch_call", "delete_call")]
    assert faults(reading, APIS["claude strict"]) == set()


@pytest.mark.anyio
async def test_a_strict_mode_call_with_nulls_is_accepted(harness: Harness) -> None:
    made = strict(next(each for each in TOOLS if each.name == "create_call"))
    given = dict.fromkeys(made.schema["properties"]) | placing()
    validator: Any = Draft202012Validator(dict(made.schema))
    assert validator.is_valid(given)
    async with harness.connect() as agent:
        token = (await agent.call("create_call", **given))["confirmation"]["token"]
        confirmed = given | {"confirmation_token": token}
        assert (await agent.call("create_call", **confirmed))["outcome"] == "done"


@pytest.mark.parametrize(("check", "api"), CASES)
def test_a_tool_that_breaks_a_rule_is_detected(check: str, api: str) -> None:
    assert check in broken([BAD[check][api]], APIS[api])
    assert broken([tool()], APIS[api]) == set()


def test_too_many_strict_tools_are_detected() -> None:
    many = [tool(name=f"say_{number}") for number in range(21)]
    assert broken(many, APIS["claude strict"]) == {"tools"}
    assert broken(many[:20], APIS["claude strict"]) == set()


def test_tools_at_the_limits_are_accepted() -> None:
    exactly = [
        tool(nested(8)),
        tool(**named(5000)),
        tool({"type": "string", "enum": ["x" * 119_996]}),
        tool({"type": "string", "enum": [f"{number:060}" for number in range(250)]}),
        tool({"type": "string", "enum": [str(number) for number in range(1000)]}),
        tool(name="x" * 64, description="x" * 1024),
    ]
    assert broken(exactly, APIS["openai strict"]) == set()
    assert broken([tool(**optional(24))], APIS["claude strict"]) == set()


def test_every_rule_has_a_source_and_a_tool_that_breaks_it() -> None:
    assert BAD.keys() == CHECKS.keys()
    for api, rules in APIS.items():
        for rule in rules:
            assert rule.source
            assert rule.check == "tools" or api in BAD[rule.check], (api, rule.check)
