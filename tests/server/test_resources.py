"""The resources: the parameters of each tool, what is allowed, and calls."""

import json
import re
from pathlib import Path

import pytest
from mcp import MCPError
from mcp_types import ReadResourceResult, TextResourceContents

from calls_mcp.emulator import Emulator, Fault, ManualClock
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime, access_to
from calls_mcp.settings import load_settings
from tests.harness import ERAS, PERMISSIVE, Era, Harness, open_harness
from tests.strategies import DOCUMENTED, TOOLS

pytestmark = pytest.mark.anyio

DOCS = [f"calls://docs/{tool}" for tool in TOOLS]
NOBODY = "CA" + "0" * 32


def text_of(result: ReadResourceResult) -> str:
    (contents,) = result.contents
    assert isinstance(contents, TextResourceContents)
    return contents.text


async def sections(harness: Harness, tool: str) -> dict[str, str]:
    """The docs of a tool by parameter."""
    async with harness.connect() as agent:
        text = text_of(await agent.client.read_resource(f"calls://docs/{tool}"))
    parts = re.split(r"(?m)^## `(\w+)`", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("era", ERAS)
async def test_resources_are_listed_in_a_fixed_order(harness: Harness, era: Era) -> None:
    async with harness.connect(era) as agent:
        listed = await agent.client.list_resources()
        templates = await agent.client.list_resource_templates()
    assert [resource.uri for resource in listed.resources] == [*DOCS, "calls://policy"]
    assert [template.uri_template for template in templates.resource_templates] == [
        "calls://docs/{tool}",
        "calls://call/{sid}",
    ]
    assert all(resource.title and resource.description for resource in listed.resources)


@pytest.mark.parametrize("tool", TOOLS)
async def test_a_docs_resource_says_how_each_parameter_is_sent(harness: Harness, tool: str) -> None:
    told = await sections(harness, tool)
    for name, documented in DOCUMENTED[tool]["parameters"].items():
        assert f"`{documented['wire']}`" in told[name]
        assert told[name].startswith(" (required)") == documented.get("required", False)


async def test_a_docs_resource_has_bounds_defaults_and_rules(harness: Harness) -> None:
    create = await sections(harness, "create_call")
    assert "1 or more; 600 or less" in create["timeout"]
    assert "Default: `60`" in create["timeout"]
    assert "Choices: `mono`, `dual`" in create["recording_channels"]
    assert "Only used with `record`: `recording_channels`" in create["recording_channels"]
    assert "4000 or fewer characters" in create["twiml"]
    assert 'Default: `["completed"]`' in create["status_callback_event"]
    assert "`initiated`, `ringing`" in create["status_callback_event"]
    assert "Secret" in create["sip_auth_password"]
    assert "to this server only" in create["confirmation_token"]


async def test_a_docs_resource_links_to_the_api_reference(harness: Harness) -> None:
    async with harness.connect() as agent:
        for uri in DOCS:
            text = text_of(await agent.client.read_resource(uri))
            assert "<https://www.twilio.com/docs/voice/api/call-resource#" in text


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_resource_equals_the_result_of_fetch_call(harness: Harness, era: Era) -> None:
    async with harness.connect(era) as agent:
        sid = await agent.place()
        told = await agent.client.read_resource(f"calls://call/{sid}")
        fetched = await agent.client.call_tool("fetch_call", {"sid": sid})
    assert json.loads(text_of(told)) == fetched.structured_content
    assert told.contents[0].meta == {
        "calls-mcp/untrusted": (fetched.meta or {})["calls-mcp/untrusted"]
    }
    assert told.contents[0].mime_type == "application/json"


async def test_a_call_resource_of_the_sandbox_has_a_transcript() -> None:
    clock = ManualClock()
    async with Emulator(port=None, clock=clock) as emulator:
        settings = load_settings({"calls_mcp_policy": PERMISSIVE, "calls_mcp_state_url": "memory:"})
        access = access_to(emulator, settings)
        async with Runtime(settings, access, sandbox=True, clock=clock) as runtime:
            harness = Harness(build_server(runtime), runtime, emulator, clock)
            async with harness.connect() as agent:
                says = "<Say>Your table is ready.</Say>" * 60
                sid = await agent.place(twiml=f"<Response><Pause/>{says}</Response>")
                await emulator.advance(1000)
                told = await agent.client.read_resource(f"calls://call/{sid}")
                templates = await agent.client.list_resource_templates()
    transcript = json.loads(text_of(told))["transcript"]
    assert transcript[0] == "0:19 said “Your table is ready.”"
    assert transcript[-1] == "1:22 ended completed (79 s)"
    assert len(transcript) == 50
    assert (told.contents[0].meta or {})["calls-mcp/untrusted"][-1] == "transcript"
    assert "a transcript" in (templates.resource_templates[1].description or "")


async def test_the_policy_resource_explains_the_policy(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[confirm]\nplace = "deny"\n', "utf-8")
    async with open_harness(calls_mcp_policy=policy) as harness, harness.connect() as agent:
        text = text_of(await agent.client.read_resource("calls://policy"))
    assert "- Placing a call is refused." in text


async def test_a_read_only_server_has_docs_only_for_its_tools() -> None:
    async with open_harness(calls_mcp_read_only=True) as harness, harness.connect() as agent:
        listed = (await agent.client.list_resources()).resources
        assert [resource.name for resource in listed] == [
            "docs/fetch_call",
            "docs/list_calls",
            "policy",
        ]
        with pytest.raises(
            MCPError, match="not available, because this server is read-only"
        ) as refusal:
            await agent.client.read_resource("calls://docs/create_call")
        assert refusal.value.code == -32602
        assert "read-only" in text_of(await agent.client.read_resource("calls://policy"))


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("calls://calls", r"Unknown resource .*calls://call/\{sid\}"),
        ("calls://policy/", "Unknown resource"),
        ("file:///etc/passwd", "Unknown resource"),
        ("calls://docs/hang_up", "Unknown tool .* create_call"),
        ("calls://docs/", "Unknown tool"),
        ("calls://call/CA12", "is not a call SID"),
        (f"calls://call/{NOBODY}?x=1", "is not a call SID"),
        (f"calls://call/{NOBODY}", "find the call with list_calls"),
    ],
)
async def test_an_unknown_resource_is_refused_with_the_reason_and_its_uri(
    harness: Harness, era: Era, uri: str, complaint: str
) -> None:
    async with harness.connect(era) as agent:
        with pytest.raises(MCPError, match=complaint) as refusal:
            await agent.client.read_resource(uri)
    assert refusal.value.code == -32602
    assert refusal.value.error.data["uri"] == uri


@pytest.mark.parametrize("era", ERAS)
async def test_an_api_failure_is_not_reported_as_a_missing_resource(
    harness: Harness, era: Era
) -> None:
    async with harness.connect(era) as agent:
        sid = await agent.place()
        harness.emulator.faults.add(Fault(kind="error", status=401, method="GET"))
        with pytest.raises(MCPError, match="credentials_rejected") as refusal:
            await agent.client.read_resource(f"calls://call/{sid}")
    assert refusal.value.code == -32603
    assert refusal.value.error.data["uri"] == f"calls://call/{sid}"
    assert refusal.value.error.data["error"]["retryable"] is False


async def test_reads_of_calls_count_as_reads(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[caps]\nreads_per_minute = 1\n", "utf-8")
    async with open_harness(calls_mcp_policy=policy) as harness, harness.connect() as agent:
        sid = await agent.place()
        await agent.client.read_resource(f"calls://call/{sid}")
        with pytest.raises(MCPError, match="1 read a minute is reached"):
            await agent.client.read_resource(f"calls://call/{sid}")
        assert len(harness.reads) == 1


async def test_changing_resources_are_not_cached_and_personal_ones_are_private(
    harness: Harness,
) -> None:
    async with harness.connect() as agent:
        client, sid = agent.client, await agent.place()
        hints = [
            (result.ttl_ms, result.cache_scope)
            for result in (
                await client.list_resources(),
                await client.list_resource_templates(),
                await client.read_resource("calls://docs/fetch_call"),
                await client.read_resource("calls://policy"),
                await client.read_resource(f"calls://call/{sid}"),
            )
        ]
    day = 86_400_000
    assert hints == [*[(day, "public")] * 3, (60_000, "private"), (0, "private")]
