"""Host, origin, session and security headers of every request."""

import pytest

from calls_mcp.console import Address, open_console
from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import load_settings
from tests.console.harness import Harness, WebClient, anonymous

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "path", ["/approvals", "/approvals/0", "/audit", "/policy", "/events?topic=approvals"]
)
async def test_every_page_requires_a_session(harness: Harness, path: str) -> None:
    async with anonymous(harness.console) as client:
        response = await client.get(path)
    assert response.status_code == 401
    assert "<h1>Sign in</h1>" in response.text


@pytest.mark.parametrize("origin", ["", "https://evil.example", "null", "http://127.0.0.1:1"])
async def test_a_form_from_another_site_is_refused(ann: WebClient, origin: str) -> None:
    fields = {"code": ann.code, "name": "eve"}
    headers = {"Origin": origin} if origin else {}
    refused = await ann.http.post(f"{ann.url}/operators", data=fields, headers=headers)
    assert refused.status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1"])
async def test_another_host_name_is_refused(ann: WebClient, host: str) -> None:
    assert (await ann.get("/approvals", {"Host": host})).status_code == 421


@pytest.mark.parametrize("path", ["/approvals", "/sign-in?link=x", "/static/console.css", "/none"])
async def test_every_response_forbids_framing_and_inline_scripts(ann: WebClient, path: str) -> None:
    headers = (await ann.get(path)).headers
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "address",
    [
        pytest.param(Address(host="0.0.0.0", port=0), id="reachable from other machines"),  # noqa: S104
        pytest.param(Address(port=0, public="http://console.example.com"), id="http"),
        pytest.param(Address(port=0, public="https://example.com/path"), id="a path"),
        pytest.param(Address(port=0, public="https://user@example.com"), id="a user"),
        pytest.param(Address(port=0, public="https://example.com:port"), id="no port"),
        pytest.param(Address(port=65_536), id="a port out of range"),
    ],
)
async def test_an_unsafe_address_is_refused(address: Address) -> None:
    with pytest.raises(ConfigurationError):
        async with open_console(load_settings(), address):
            pass


async def test_an_unknown_address_gets_a_message(ann: WebClient) -> None:
    missing = await ann.get("/nothing")
    assert missing.status_code == 404
    assert '<p role="alert">This page does not exist.</p>' in missing.text
