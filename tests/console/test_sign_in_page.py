"""Sign in with a link, invite others, and sign out."""

from pathlib import Path

import httpx
import pytest

from calls_mcp.console import Address, open_console
from calls_mcp.settings import load_settings
from tests.console.harness import Harness, WebClient, anonymous, sign_in

pytestmark = pytest.mark.anyio


async def test_a_link_signs_one_browser_in_once(harness: Harness) -> None:
    link = harness.console.link("ann")
    async with anonymous(harness.console) as first, anonymous(harness.console) as second:
        response = await first.submit_link(link)
        assert (response.status_code, response.headers["location"]) == (303, "/approvals")
        assert (await first.get("/")).headers["location"] == "/approvals"
        assert "ann" in await first.read("/approvals")
        assert (await second.submit_link(link)).status_code == 401
        assert (await second.get("/approvals")).status_code == 401


async def test_opening_a_link_does_not_use_it_up(harness: Harness) -> None:
    link = harness.console.link("ann")
    async with anonymous(harness.console) as client:
        shown = await client.get(link.removeprefix(harness.console.url))
        assert shown.status_code == 200
        assert "set-cookie" not in shown.headers
        assert (await client.submit_link(link)).status_code == 303


async def test_links_and_sessions_expire(harness: Harness, ann: WebClient) -> None:
    link = harness.console.link("bob")
    harness.clock.advance(600)
    async with anonymous(harness.console) as bob:
        assert (await bob.submit_link(link)).status_code == 401
    assert "ann" in await ann.read("/approvals")
    harness.clock.advance(12 * 3600 - 600)
    assert (await ann.get("/approvals")).status_code == 401


async def test_the_cookie_is_hidden_from_scripts_and_other_sites(harness: Harness) -> None:
    async with anonymous(harness.console) as client:
        response = await client.submit_link(harness.console.link("ann"))
    cookie = response.headers["set-cookie"]
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert attribute in cookie
    assert "Secure" not in cookie


async def test_behind_https_the_cookie_is_only_sent_over_https(tmp_path: Path) -> None:
    settings = load_settings({"calls_mcp_state_url": f"sqlite:///{tmp_path}/state.db"})
    address = Address(port=0, public="https://console.example.com")
    async with open_console(settings, address) as console:
        assert console.url == "https://console.example.com"
        async with httpx.AsyncClient(trust_env=False) as http:
            response = await http.post(
                f"http://127.0.0.1:{console.address.port}/sign-in",
                data={"link": console.link("ann").partition("?link=")[2]},
                headers={"Host": "console.example.com", "Origin": console.url},
            )
    assert response.status_code == 303
    assert response.headers["set-cookie"].startswith("__Host-")
    assert "Secure" in response.headers["set-cookie"]


async def test_a_session_that_was_signed_out_is_over(ann: WebClient) -> None:
    cookies = dict(ann.http.cookies)
    assert (await ann.submit("/approvals", "/sign-out")).status_code == 200
    assert not ann.http.cookies
    ann.http.cookies.update(cookies)
    assert (await ann.get("/approvals")).status_code == 401


async def test_an_operator_can_invite_another(harness: Harness, ann: WebClient) -> None:
    shown = await ann.submit("/invitations", "/invitations", name="bob")
    link = shown.text.partition('class="link">')[2].partition("<")[0]
    async with anonymous(harness.console) as bob:
        assert (await bob.submit_link(link)).status_code == 303
        assert "bob" in await bob.read("/approvals")


async def test_signing_in_leads_to_the_page_that_was_wanted(harness: Harness) -> None:
    wanted = "/approvals/0?a=b"
    async with anonymous(harness.console) as client:
        shown = await client.get(wanted)
        assert f'name="next" value="{wanted}"' in shown.text
        link = f" {harness.console.link('ann')} "
        response = await client.post("/sign-in", link=link, next=wanted)
    assert (response.status_code, response.headers["location"]) == (303, wanted)


async def test_who_is_signed_in_can_go_on_from_a_link_of_another_site(ann: WebClient) -> None:
    cookies = dict(ann.http.cookies)
    ann.http.cookies.clear()  # as a browser does with a link of another site
    shown = await ann.get("/policy")
    assert '<a href="/policy">' in shown.text
    ann.http.cookies.update(cookies)
    assert "Rules" in await ann.read("/policy")


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/%2Fevil.example",
        "/\tevil",
        "/@evil.example",
        "javascript:alert(1)",
        "/sign-in?link=x",
        "/policy\r\nSet-Cookie: a=b",
        "é",
    ],
)
async def test_signing_in_never_leads_to_another_site(harness: Harness, wanted: str) -> None:
    link = harness.console.link("ann")
    async with anonymous(harness.console) as client:
        response = await client.post("/sign-in", link=link, next=wanted)
    assert (response.status_code, response.headers["location"]) == (303, "/approvals")


async def test_a_form_of_another_session_is_refused(harness: Harness, ann: WebClient) -> None:
    async with sign_in(harness.console, "bob") as bob:
        for csrf in ("", "x" * 43, "é", await ann.csrf()):
            assert (await bob.post("/invitations", csrf=csrf, name="eve")).status_code == 403


async def test_a_form_that_is_too_large_is_refused(ann: WebClient) -> None:
    assert (await ann.post("/invitations", name="x" * 20_000)).status_code == 413
