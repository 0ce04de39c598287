"""The capabilities and lists of the server, and its errors for unknown names."""

import pytest
from mcp import MCPError

from calls_mcp import __version__
from tests.harness import ERAS, Era, Harness, open_harness

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ERAS)
async def test_the_server_announces_only_what_it_supports(harness: Harness, era: Era) -> None:
    async with harness.connect(era) as agent:
        info = agent.client.server_info
        capabilities = agent.client.server_capabilities
        instructions = agent.client.instructions
    assert info is not None
    assert (info.name, info.version) == ("calls-mcp", __version__)
    assert capabilities.tools is not None
    assert capabilities.prompts is not None
    assert not capabilities.tools.list_changed
    assert not capabilities.prompts.list_changed
    assert capabilities.resources is not None
    assert capabilities.resources.subscribe
    assert not capabilities.resources.list_changed
    assert capabilities.completions is not None
    assert capabilities.logging is None
    assert [icon.theme for icon in info.icons or []] == ["light", "dark"]
    assert all(icon.src.startswith("data:image/svg+xml;base64,") for icon in info.icons or [])
    assert instructions is not None
    assert "outcome_unknown" in instructions


@pytest.mark.requirement("21", "40")
async def test_a_read_only_server_offers_two_tools_and_refuses_the_others() -> None:
    async with open_harness(calls_mcp_read_only=True) as harness, harness.connect() as agent:
        tools = (await agent.client.list_tools()).tools
        assert [tool.name for tool in tools] == ["fetch_call", "list_calls"]
        assert (await agent.call("list_calls"))["outcome"] == "done"
        prompts = (await agent.client.list_prompts()).prompts
        assert [prompt.name for prompt in prompts] == [
            "daily_call_report",
            "follow_call",
            "investigate_failed_calls",
        ]
        told = agent.client.instructions or ""
        assert "read-only" in told
        assert "create_call" not in told
        for tool in ("create_call", "update_call", "delete_call"):
            with pytest.raises(MCPError, match="read-only") as refusal:
                await agent.call(tool, sid="CA" + "0" * 32)
            assert refusal.value.code == -32602
        assert harness.changes == []


@pytest.mark.parametrize("era", ERAS)
async def test_an_unknown_tool_is_refused_with_the_available_tools(
    harness: Harness, era: Era
) -> None:
    async with harness.connect(era) as agent:
        with pytest.raises(MCPError, match="fetch_call, list_calls") as refusal:
            await agent.call("fetch_calls")
    assert refusal.value.code == -32602


@pytest.mark.requirement("35")
async def test_a_long_unknown_name_is_shortened(harness: Harness) -> None:
    name = "no_such_name" * 5000
    async with harness.connect() as agent:
        for ask in (agent.call, agent.client.get_prompt):
            with pytest.raises(MCPError) as refusal:
                await ask(name)
            assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("cursor", ["made-up", ""])
async def test_an_unknown_list_cursor_is_refused(harness: Harness, era: Era, cursor: str) -> None:
    async with harness.connect(era) as agent:
        client = agent.client
        for listing in (
            client.list_tools,
            client.list_prompts,
            client.list_resources,
            client.list_resource_templates,
        ):
            with pytest.raises(MCPError, match="This list has one page") as refusal:
                await listing(cursor=cursor)
            assert refusal.value.code == -32602


async def test_missing_arguments_are_no_arguments(harness: Harness) -> None:
    async with harness.connect() as agent:
        result = await agent.client.call_tool("list_calls")
    assert result.is_error is False


@pytest.mark.requirement("15")
async def test_static_lists_are_cacheable(harness: Harness) -> None:
    async with harness.connect() as agent:
        tools = await agent.client.list_tools()
        prompts = await agent.client.list_prompts()
    assert tools.ttl_ms == prompts.ttl_ms == 86_400_000
    assert tools.cache_scope == prompts.cache_scope == "public"
