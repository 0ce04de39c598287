"""The rules and settings on the console's pages."""

from pathlib import Path

import pytest

from calls_mcp.console import Address, open_console
from calls_mcp.settings import load_settings
from tests.console.desk import Desk, open_desk, visible

pytestmark = pytest.mark.anyio


async def test_the_policy_is_told_in_words_with_where_each_rule_is_from(tmp_path: Path) -> None:
    async with open_desk(tmp_path, 'place = "deny"') as desk, desk.operator() as browser:
        told = visible(await browser.read("/policy"))
    assert "Placing a call is refused." in told
    assert f'confirm.place "deny" {tmp_path}/policy.toml' in told
    assert 'confirm.delete "confirm" shipped with calls-mcp' in told


async def test_servers_may_have_other_rules_and_the_page_says_so(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk, desk.operator() as browser:
        told = visible(await browser.read("/policy"))
    assert "set CALLS_MCP_POLICY and CALLS_MCP_CONFIRM to the same values there and here" in told


async def test_settings_are_told_with_their_source_and_without_secrets(tmp_path: Path) -> None:
    secrets = {
        "twilio_auth_token": "a-very-secret-token",
        "calls_mcp_secret_keys": "k" * 40,
        "calls_mcp_state_url": f"sqlite:///{tmp_path}/hidden.db",
    }
    async with open_desk(tmp_path, **secrets) as desk, desk.operator() as browser:
        page = await browser.read("/policy")
    told = visible(page)
    assert "CALLS_MCP_OPERATOR_TTL 900 default" in told
    assert "TWILIO_AUTH_TOKEN ******** environment" in told
    assert "CALLS_MCP_STATE_URL ******** environment" in told
    assert not any(secret in page for secret in secrets.values())


async def test_a_policy_that_is_wrong_is_told(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[confirm]\nplcae = 1\n", "utf-8")
    settings = load_settings({"calls_mcp_policy": file})
    async with open_console(settings, Address(port=0)) as console:
        desk = Desk(console, None, tmp_path)  # pyright: ignore[reportArgumentType]  # no server
        async with desk.operator() as browser:
            response = await browser.get("/policy")
    assert response.status_code == 503
    assert "unknown key confirm.plcae" in response.text
