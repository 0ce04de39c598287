"""The policy and the settings."""

from pathlib import Path

import pytest

from tests.console.harness import (
    Harness,
    WebClient,
    open_harness,
    sign_in,
    sign_in_alone,
    text_of,
)

pytestmark = pytest.mark.anyio


async def test_the_policy_is_explained_with_the_source_of_each_rule(
    harness: Harness, ann: WebClient
) -> None:
    text = text_of(await ann.read("/policy"))
    assert "Placing a call Operator's approval" in text
    assert f'confirm.place "operator" {harness.database.parent}/policy.toml' in text
    assert 'confirm.delete "confirm" default' in text
    assert 'hours.daily "08:00-21:00" default' in text
    assert "caps.principal.minutes_per_day 0 default" in text
    assert "Numbers can be called from 08:00 to 21:00 (their local time)." in text
    assert "Set CALLS_MCP_POLICY and CALLS_MCP_CONFIRM to the same values for the console" in text


async def test_settings_are_shown_with_their_source_and_without_secrets(tmp_path: Path) -> None:
    secrets = {
        "twilio_auth_token": "a-very-secret-token",
        "calls_mcp_secret_keys": "k" * 40,
        "calls_mcp_state_url": f"sqlite:///{tmp_path}/hidden.db",
    }
    async with open_harness(tmp_path, **secrets) as harness, sign_in(harness.console) as ann:
        html = await ann.read("/policy")
    text = text_of(html)
    assert "such as an incoming webhook of Slack, Mattermost or Teams." in text
    assert "CALLS_MCP_OPERATOR_TTL 900 default" in text
    assert "TWILIO_AUTH_TOKEN ******** environment" in text
    assert "CALLS_MCP_STATE_URL ******** environment" in text
    assert not any(secret in html for secret in secrets.values())


async def test_limits_are_shown_with_their_current_use(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    caps = "calls_per_day = 50\ncalls_per_minute = 9\nin_flight = 5\nminutes_per_day = 60"
    own = "[caps.principal]\ncalls_per_hour = 7"
    repeated = "same_number_seconds = 0"
    file.write_text(f'[confirm]\nplace = "never"\n[caps]\n{caps}\n{repeated}\n{own}', "utf-8")
    async with (
        open_harness(tmp_path, calls_mcp_policy=file) as harness,
        sign_in(harness.console) as ann,
    ):
        assert "Used in total: 0 of 9 calls in the last minute" in text_of(
            await ann.read("/policy")
        )
        await harness.place_call("front desk")
        await harness.place_call("front desk")
        harness.clock.advance(600)
        text = text_of(await ann.read("/policy"))
    assert (
        "Used in total: 0 of 9 calls in the last minute, 2 of 50 calls in the last 24 h, "
        "2 of 5 live calls, 21 of 60 min of talk time in the last 24 h."
    ) in text
    assert "Used by front desk: 2 of 7 calls in the last hour." in text


async def test_an_invalid_policy_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[confirm]\nplcae = 1\n", "utf-8")
    async with sign_in_alone(calls_mcp_policy=file) as client:
        response = await client.get("/policy")
    assert response.status_code == 503
    assert "unknown key confirm.plcae" in response.text


async def test_rules_and_settings_can_be_searched(ann: WebClient) -> None:
    text = text_of(await ann.read("/policy?search=Operator_TTL"))
    assert "CALLS_MCP_OPERATOR_TTL 900 default" in text
    assert "Settings of the console (1 matching)" in text
    assert "Rules (0 matching)" in text
