"""The prompts, and the errors about invalid prompt files."""

from pathlib import Path

import pytest
from mcp import MCPError
from mcp_types import TextContent

from calls_mcp.errors import CatalogError
from calls_mcp.server.prompts import load_prompts
from tests.harness import Harness

SID = "CA" + "0" * 32

GIVEN = {
    "daily_call_report": {"date": "2026-01-31"},
    "end_call": {"sid": SID},
    "follow_call": {"sid": SID},
    "investigate_failed_calls": {"date": "2026-01-31"},
    "place_call": {"to": "+15005550006", "from": "+15005550100", "message": "Dinner is ready"},
}

GOOD = """---
name: greet
title: Greet
description: Say hello
arguments:
  - name: who
    description: To whom
---
Say hello to {{ who }}.
"""


@pytest.mark.anyio
async def test_each_prompt_is_served_with_its_arguments_filled_in(harness: Harness) -> None:
    async with harness.connect() as agent:
        prompts = (await agent.client.list_prompts()).prompts
        assert {prompt.name for prompt in prompts} == {*GIVEN}
        for prompt in prompts:
            given = GIVEN[prompt.name]
            assert {a.name for a in prompt.arguments or [] if a.required} == {*given}
            (message,) = (await agent.client.get_prompt(prompt.name, given)).messages
            assert isinstance(message.content, TextContent)
            assert all(value in message.content.text for value in given.values())
            assert "{{" not in message.content.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "given", "complaint"),
    [
        ("end_call", {}, "sid is required: "),
        ("end_call", {"sid": SID, "force": "yes"}, 'unknown argument "force"'),
        (
            "investigate_failed_calls",
            {"date": "2026-01-31", "status": "queued"},
            "status must be one of failed, busy, no-answer, canceled",
        ),
        ("hang_up", {}, 'Unknown prompt "hang_up". Available: daily_call_report, end_call'),
    ],
)
async def test_a_prompt_with_wrong_arguments_is_refused_with_the_reason(
    harness: Harness, name: str, given: dict[str, str], complaint: str
) -> None:
    async with harness.connect() as agent:
        with pytest.raises(MCPError, match=complaint) as refusal:
            await agent.client.get_prompt(name, given)
    assert refusal.value.code == -32602


@pytest.mark.anyio
async def test_prompt_faults_are_in_the_order_of_the_arguments(harness: Harness) -> None:
    given = {"sid": SID} | {f"{letter}{n}": "x" for n in range(4) for letter in "zyxa"}
    async with harness.connect() as agent:
        with pytest.raises(MCPError) as refusal:
            await agent.client.get_prompt("end_call", given)
    wrong = [f'unknown argument "{name}"' for name in given if name != "sid"]
    assert str(refusal.value) == "; ".join(wrong)


def test_a_missing_optional_prompt_argument_is_shown_as_not_given(tmp_path: Path) -> None:
    (tmp_path / "greet.md").write_text(GOOD, "utf-8")
    assert load_prompts(tmp_path)["greet"].render({}) == "Say hello to (not given)."


def test_a_prompt_argument_cannot_contain_a_placeholder(tmp_path: Path) -> None:
    (tmp_path / "greet.md").write_text(GOOD, "utf-8")
    prompt = load_prompts(tmp_path)["greet"]
    assert prompt.render({"who": "{{ who }}"}) == "Say hello to {{ who }}."


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("Say hello.", "front matter", id="no front matter"),
        pytest.param(GOOD.replace("title: Greet\n", ""), "title", id="a key is missing"),
        pytest.param(GOOD.replace("title", "titel"), "titel", id="a key is misspelled"),
        pytest.param(GOOD.replace("title: Greet", "title: [")[:60], "front matter", id="bad YAML"),
        pytest.param(GOOD.replace("name: greet", "name: hello"), "must be greet", id="name"),
        pytest.param(GOOD.replace("{{ who }}", "you"), "who", id="an argument is not used"),
        pytest.param(GOOD.replace("to {{", "to {{ him }} and {{"), "him", id="not declared"),
        pytest.param(GOOD.replace("    desc", "    note: x\n    desc"), "note", id="odd argument"),
        pytest.param(GOOD.replace("  - name: who\n    ", "  "), "front matter", id="not a list"),
        pytest.param(GOOD.replace("title: Greet", "title: 7"), "title", id="a number as a title"),
        pytest.param(GOOD.replace("title: Greet", "title: ''"), "title", id="an empty title"),
        pytest.param(
            GOOD.replace("    desc", "    required: 'no'\n    desc"),
            "required",
            id="a text as a no",
        ),
        pytest.param(
            GOOD.replace("  - name: who\n", "  - {name: who, description: x}\n  - name: who\n"),
            "declared twice",
            id="an argument twice",
        ),
    ],
)
def test_an_invalid_prompt_file_is_an_error_that_names_the_file_and_the_fault(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "greet.md").write_text(text, "utf-8")
    with pytest.raises(CatalogError, match=complaint) as error:
        load_prompts(tmp_path)
    assert "greet.md" in str(error.value)


def test_a_prompt_file_that_is_not_utf_8_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "greet.md").write_bytes(GOOD.replace("Greet", "Grüß").encode("latin-1"))
    with pytest.raises(CatalogError, match=r"greet\.md: front matter: .*utf-8"):
        load_prompts(tmp_path)
