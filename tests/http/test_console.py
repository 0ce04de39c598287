"""`calls-mcp serve --transport http --console`: the operator's console."""

import re
from pathlib import Path

import httpx
import pytest

from calls_mcp.cli.console import open_in_server
from calls_mcp.cli.main import main
from tests.harness import open_harness, placing
from tests.http.replica import replica
from tests.http.service import EVERYTHING, entry, write

pytestmark = pytest.mark.anyio

_LINK = re.compile(r"The console is at (\S+)\. Open this link to sign in: \S+\?link=(\S+)\n")
_PLACE = re.compile(
    r"The console is at (\S+)\. Sign in with a token that has the scope calls:approve\.\n"
)
_CODE = re.compile(r'data-code="([^"]+)"')


def found(log: str, pattern: re.Pattern[str]) -> re.Match[str]:
    """Return the match of the log line about the console."""
    match = pattern.search(log)
    assert match, log
    return match


@pytest.mark.process
async def test_the_console_link_leads_to_pending_approvals(tmp_path: Path) -> None:
    policy = write(tmp_path / "policy.toml", "[confirm]", 'place = "operator"')
    variables = {
        "CALLS_MCP_STATE_URL": f"sqlite:///{tmp_path}/state.db",
        "CALLS_MCP_POLICY": str(policy),
        "CALLS_MCP_HTTP_GRACE": "5",
    }
    async with replica(variables, "--sandbox", "--console", "0") as server:
        url, secret = found("".join(server.stderr), _LINK).groups()
        async with (
            server.connect() as agent,
            httpx.AsyncClient(
                base_url=url, trust_env=False, headers={"Origin": url}, follow_redirects=True
            ) as browser,
        ):
            asked = await agent.call("create_call", **placing())
            inside = await browser.post("/sign-in", data={"link": secret})
            code = _CODE.search(inside.text)
            assert code
            request = f"/approvals/{asked['confirmation']['approval']}"
            await browser.post(request, data={"code": code[1], "decision": "approve"})
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"
            async with browser.stream("GET", "/events?topic=approvals") as open_tab:
                assert open_tab.status_code == 200
                server.terminate()
                assert await server.process.wait() == 0


async def test_the_console_url_behind_a_proxy_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        open_harness(calls_mcp_console_url="https://calls.example.com") as harness,
        open_in_server(harness.runtime, "0.0.0.0:0"),
    ):
        assert found(caplog.text, _LINK)[1] == "https://calls.example.com"


async def test_with_tokens_the_console_has_no_link(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(
        tmp_path / "principals.toml",
        entry("anns-token", "ann", "calls:approve"),
        entry("agents-token", "agent", *EVERYTHING),
    )
    async with (
        open_harness(calls_mcp_auth="tokens", calls_mcp_principals=file) as harness,
        open_in_server(harness.runtime, "0"),
    ):
        url = found(caplog.text, _PLACE)[1]
        async with httpx.AsyncClient(base_url=url, trust_env=False) as script:
            read = await script.get("/approvals", headers={"Authorization": "Bearer anns-token"})
            assert "CALLS_MCP_STATE_URL is memory:" in read.text
            refused = await script.get(
                "/approvals", headers={"Authorization": "Bearer agents-token"}
            )
            assert refused.status_code == 403
    assert "?link=" not in caplog.text


HTTP = ["--transport", "http", "--port", "0"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--console"], "--console: only with --transport http"),
        ([*HTTP, "--console", "here"], "--console must be PORT or HOST:PORT"),
        ([*HTTP, "--console", "65536"], "65535"),
        ([*HTTP, "--console", "0.0.0.0:0"], "At 0.0.0.0, other machines would reach the console"),
    ],
)
def test_a_wrong_console_option_is_reported_in_one_line(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--sandbox", *options]) == 2
    printed = capsys.readouterr().err
    assert complaint in printed
    assert printed.count("\n") == 1
