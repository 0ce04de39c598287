"""Completion of the arguments of prompts and of resource templates."""

import logging
from pathlib import Path

import pytest
from mcp import MCPError
from mcp_types import Completion, PromptReference, ResourceTemplateReference

from calls_mcp.emulator import OWN_NUMBERS, Fault, past_calls
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from tests.harness import (
    CALLER,
    ERAS,
    TALKS_FOR_AN_HOUR,
    Agent,
    Era,
    Harness,
    access_to,
    open_harness,
)

pytestmark = pytest.mark.anyio

CALL, DOCS = "calls://call/{sid}", "calls://docs/{tool}"


async def of_prompt(agent: Agent, prompt: str, argument: str, begun: str = "") -> Completion:
    ref, value = PromptReference(name=prompt), {"name": argument, "value": begun}
    return (await agent.client.complete(ref, value)).completion


async def of_template(agent: Agent, uri: str, argument: str, begun: str = "") -> Completion:
    ref, value = ResourceTemplateReference(uri=uri), {"name": argument, "value": begun}
    return (await agent.client.complete(ref, value)).completion


@pytest.mark.parametrize("era", ERAS)
async def test_sids_of_recent_calls_are_completed_with_live_calls_first(
    harness: Harness, era: Era
) -> None:
    async with harness.connect(era) as agent:
        live = await agent.place()
        ended = await agent.place()
        await agent.confirm("update_call", sid=ended, status="completed")
        for found in (
            await of_prompt(agent, "end_call", "sid"),
            await of_template(agent, CALL, "sid", "ca"),
        ):
            assert found.values == [live, ended]
            assert (found.total, found.has_more) == (2, False)
        assert (await of_prompt(agent, "end_call", "sid", live)).values == [live]
        assert (await of_prompt(agent, "end_call", "sid", "x")).values == []
    assert len([read for read in harness.reads if read.path.endswith("Calls.json")]) == 1


async def test_statuses_of_a_prompt_are_completed(harness: Harness) -> None:
    async with harness.connect() as agent:
        found = await of_prompt(agent, "investigate_failed_calls", "status")
        assert found.values == ["failed", "busy", "no-answer", "canceled"]
        for status in found.values:
            given = {"date": "2026-01-31", "status": status}
            await agent.client.get_prompt("investigate_failed_calls", given)


async def test_completions_that_are_not_all_are_marked_as_partial(harness: Harness) -> None:
    harness.emulator.calls.add(*past_calls(1, 101, harness.clock()))
    async with harness.connect() as agent:
        found = await of_template(agent, CALL, "sid")
    assert 50 < len(found.values) <= 100
    assert found.has_more
    assert found.total is None


async def test_the_parties_of_outbound_calls_are_completed(harness: Harness) -> None:
    async with harness.connect() as agent:
        await agent.place()
        assert (await of_prompt(agent, "place_call", "from", "+1")).values == [CALLER]
        assert (await of_prompt(agent, "place_call", "to")).values == [TALKS_FOR_AN_HOUR]
        assert (await of_prompt(agent, "place_call", "message")).values == []


async def test_caller_ids_are_those_the_policy_names_and_allows(tmp_path: Path) -> None:
    named, allowed, refused = "+15005550111", OWN_NUMBERS[0], OWN_NUMBERS[1]
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[caller_ids]\nallow = ["{named}", "{allowed}?", "{allowed}*"]\n', "utf-8")
    settings = load_settings({"calls_mcp_policy": policy})
    async with (
        open_harness() as harness,
        Runtime(settings, access_to(harness.emulator.base_url)) as runtime,
        harness.connect() as agent,
    ):
        await agent.place()
        await agent.place(**{"from": refused})
        assert {*(await of_prompt(agent, "place_call", "from")).values} == {allowed, refused}
        strict = Harness(build_server(runtime), runtime, harness.emulator, harness.clock)
        async with strict.connect() as other:
            found = await of_prompt(other, "place_call", "from")
    assert found.values == [named, allowed]


@pytest.mark.parametrize("era", ERAS)
async def test_tools_days_and_statuses_are_completed(harness: Harness, era: Era) -> None:
    async with harness.connect(era) as agent:
        tools = await of_template(agent, DOCS, "tool", "F")
        days = await of_prompt(agent, "daily_call_report", "date")
        statuses = await of_prompt(agent, "investigate_failed_calls", "status", "c")
    assert tools.values == ["fetch_call"]
    assert days.values[:2] == ["2023-11-14", "2023-11-13"]
    assert statuses.values == ["canceled"]
    assert harness.reads == []


@pytest.mark.parametrize("era", ERAS)
async def test_an_api_failure_completes_nothing_and_is_logged(
    harness: Harness, era: Era, caplog: pytest.LogCaptureFixture
) -> None:
    harness.emulator.faults.add(Fault(kind="error", status=401, method="GET"))
    async with harness.connect(era) as agent:
        found = await of_template(agent, CALL, "sid")
        assert (found.values, found.has_more) == ([], False)
        await of_template(agent, CALL, "sid")
    assert len(harness.reads) == 1
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "completion failed because calls can't be read: credentials_rejected"
    ]


async def test_an_unknown_prompt_argument_or_template_is_refused(harness: Harness) -> None:
    async with harness.connect() as agent:
        with pytest.raises(MCPError, match="Unknown prompt"):
            await of_prompt(agent, "hang_up", "sid")
        with pytest.raises(MCPError, match="Available: sid"):
            await of_prompt(agent, "end_call", "to")
        with pytest.raises(MCPError, match="Unknown template") as refusal:
            await of_template(agent, "calls://policy", "sid")
    assert refusal.value.code == -32602
