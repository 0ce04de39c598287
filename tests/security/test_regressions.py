"""What was once let through."""

import json
from pathlib import Path
from random import Random

import pytest
from mcp import MCPError

from calls_mcp.settings import load_settings
from tests.rig import ACCOUNT, PERMISSIVE, open_rig, placing, structured
from tests.security.canary import AUTH_TOKEN, REDIS_PASSWORD, betrayed
from tests.security.conversation import YES, interview, token_for
from tests.security.hostile import ORDER
from tests.security.test_secrets import TOOLS, echoing, everything, speaking
from tests.upstream import SID, Upstream, answer, call, hang, page, scripted

pytestmark = pytest.mark.anyio


async def test_item_16_no_password_of_the_state_store_is_in_a_representation() -> None:
    settings = load_settings(
        {
            "twilio_account_sid": ACCOUNT,
            "twilio_auth_token": AUTH_TOKEN,
            "calls_mcp_state_url": f"redis://:{REDIS_PASSWORD}@127.0.0.1:1/0",
        }
    )
    assert [found for text in everything(settings) if (found := betrayed(text))] == []


@pytest.mark.parametrize("echo", ["{start}", "{part}"])
@pytest.mark.parametrize("status", [400, 401, 429])
async def test_item_16_a_credential_that_the_api_echoes_in_part_is_masked(
    echo: str, status: int
) -> None:
    settings = load_settings({"calls_mcp_policy": PERMISSIVE, "calls_mcp_confirm": "none"})
    async with (
        Upstream(echoing(echo, status)) as upstream,
        speaking(upstream, settings) as agent,
    ):
        told = [(await agent.client.call_tool(*tool)).model_dump_json() for tool in TOOLS]
    assert [betrayed(text) for text in told] == [[]] * 4


@pytest.mark.parametrize("encoding", ["nonsense", "UTF-7", "UTF-16"])
async def test_item_34_twiml_in_another_encoding_is_refused(encoding: str) -> None:
    twiml = f'<?xml version="1.0" encoding="{encoding}"?><Response/>'
    async with open_rig(calls_mcp_policy=None) as rig, rig.connect() as agent:
        outcome = await agent.call("create_call", **placing(twiml=twiml))
    assert outcome["error"]["kind"] == "policy_denied"


async def test_item_11_no_confirmation_from_before_a_lost_answer_sends_it_again() -> None:
    nothing = answer(200, page())
    script = hang, nothing, nothing, nothing, answer(201, call())
    async with scripted(*script, step_timeout=0.4, deadline=5, calls_mcp_confirm="all") as (
        upstream,
        agent,
    ):
        tokens = [await token_for(agent, ("create_call", placing())) for _ in range(2)]
        first, second = [
            await agent.call("create_call", **placing(confirmation_token=token)) for token in tokens
        ]
        assert first["error"]["kind"] == "outcome_unknown"
        assert second["outcome"] in ("expired", "confirmation_required", "error")
        assert len(upstream.changes) == 1


@pytest.mark.parametrize("way", ["answer", "token"])
async def test_item_37_no_confirmation_from_before_a_call_rings_the_same_number_again(
    way: str,
) -> None:
    async with open_rig(calls_mcp_policy=None) as rig:
        if way == "token":
            async with rig.connect() as agent:
                tokens = [await token_for(agent, ("create_call", placing())) for _ in range(5)]
                for token in tokens:
                    await agent.call("create_call", **placing(confirmation_token=token))
        else:
            async with interview(rig) as one, interview(rig) as two:
                await one.answer(YES)
                await two.answer(YES)
        assert len(rig.changes) == 1


@pytest.mark.parametrize(
    "following",
    [
        *("?Page=\ud800", "?Page=1&PageToken=\x00", "?PageToken=\u202e", "?Page=%ED%A0%80"),
        "?Page=1&PageToken=" + Random(1).randbytes(100_000).hex(),  # noqa: S311  # no secret
    ],
    ids=["a surrogate", "a NUL", "bidi", "an encoded surrogate", "200 kB"],
)
async def test_item_13_a_next_page_that_is_no_page_breaks_nothing(following: str) -> None:
    async with scripted(answer(200, page(call(), following=following)), deadline=1) as (_, agent):
        result = await agent.client.call_tool("list_calls", {"limit": 1})
        content = structured(result)
        assert content["outcome"] in ("done", "error")
        assert len(result.model_dump_json()) < 10_000
        if "next_cursor" in content:
            again = await agent.call("list_calls", cursor=content["next_cursor"])
            assert again.get("error", {}).get("kind") != "invalid_arguments"


async def test_item_35_an_unknown_name_is_not_repeated_in_full() -> None:
    async with open_rig() as rig, rig.connect() as agent:
        with pytest.raises(MCPError) as tool:
            await agent.client.call_tool(ORDER * 2000, {})
        with pytest.raises(MCPError) as prompt:
            await agent.client.get_prompt(ORDER * 2000)
    for error in (tool.value, prompt.value):
        assert len(str(error)) < 1000


async def test_item_41_the_record_has_the_status_and_the_request_id_of_the_api(
    tmp_path: Path,
) -> None:
    file = tmp_path / "audit.jsonl"
    identified = {"Twilio-Request-Id": "RQ0123456789abcdef0123456789abcdef"}
    script = (
        answer(201, call(), headers=identified),
        answer(204, headers=identified),
        answer(400, {"message": "no"}, headers=identified),
    )
    async with scripted(*script, calls_mcp_audit_file=file) as (_, agent):
        await agent.call("create_call", **placing())
        await agent.call("delete_call", sid=SID)
        await agent.call("delete_call", sid=SID)
    ends = [json.loads(line) for line in file.read_text("utf-8").splitlines()][1::2]
    assert [record["http_status"] for record in ends] == [201, 204, 400]
    assert all(identified["Twilio-Request-Id"] in record.values() for record in ends)
