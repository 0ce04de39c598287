"""Sign in with a link, invite other operators, and sign out."""

import re
from html import unescape
from pathlib import Path

import httpx
import pytest

from calls_mcp.console import Address, open_console
from calls_mcp.settings import load_settings
from tests.console.harness import Harness, WebClient, anonymous, text_of

pytestmark = pytest.mark.anyio


def leads_to(response: httpx.Response) -> str:
    """The page that the link on the page after signing in leads to."""
    found = re.search(r'href="([^"]+)" data-code=', response.text)
    return unescape(found[1]) if found else ""


async def test_a_link_signs_in_one_browser_once(harness: Harness) -> None:
    link = harness.console.link("ann")
    async with anonymous(harness.console) as first, anonymous(harness.console) as second:
        response = await first.submit_link(link)
        assert (response.status_code, leads_to(response)) == (200, "/approvals")
        assert (await first.get("/")).headers["location"] == "/approvals"
        assert "ann" in await first.read("/approvals")
        assert (await second.submit_link(link)).status_code == 401
        assert (await second.get("/approvals")).status_code == 401


async def test_a_used_link_is_explained_and_offers_no_sign_in(harness: Harness) -> None:
    link = harness.console.link("ann")
    async with anonymous(harness.console) as client:
        await client.submit_link(link)
        opened = await client.get(link.removeprefix(harness.console.url))
        submitted = await client.submit_link(link)
    for response in (opened, submitted):
        assert response.status_code == 401
        assert "This sign-in link has already been used." in response.text
        assert "To get a new link" in response.text
        assert "<button" not in response.text


async def test_an_expired_link_and_an_unknown_link_are_explained(harness: Harness) -> None:
    link = harness.console.link("ann").removeprefix(harness.console.url)
    harness.clock.advance(600)
    async with anonymous(harness.console) as client:
        assert "This sign-in link has expired." in (await client.get(link)).text
        assert "This sign-in link is not valid." in (await client.get("/sign-in?link=x")).text


async def test_opening_a_link_does_not_use_it(harness: Harness) -> None:
    link = harness.console.link("ann")
    async with anonymous(harness.console) as client:
        shown = await client.get(link.removeprefix(harness.console.url))
        assert shown.status_code == 200
        assert "set-cookie" not in shown.headers
        assert (await client.submit_link(link)).status_code == 200


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


async def test_behind_an_https_proxy_the_cookie_is_secure(tmp_path: Path) -> None:
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
    assert response.status_code == 200
    assert response.headers["set-cookie"].startswith("__Host-")
    assert "Secure" in response.headers["set-cookie"]


async def test_signing_out_ends_the_session(ann: WebClient) -> None:
    cookies = dict(ann.http.cookies)
    assert (await ann.post("/sign-out")).status_code == 200
    assert not ann.http.cookies
    ann.http.cookies.update(cookies)
    assert (await ann.get("/approvals")).status_code == 401


async def test_an_operator_can_invite_another_operator(harness: Harness, ann: WebClient) -> None:
    shown = await ann.decide("/operators", name="bob")
    link = shown.text.partition('class="link">')[2].partition("<")[0]
    async with anonymous(harness.console) as bob:
        assert (await bob.submit_link(link)).status_code == 200
        assert "bob" in await bob.read("/approvals")


async def test_operators_see_who_is_signed_in_and_can_sign_them_out(
    harness: Harness, ann: WebClient
) -> None:
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    async with anonymous(harness.console) as bob, anonymous(harness.console) as cyd:
        bob.http.headers["User-Agent"] = agent
        await bob.submit_link(harness.console.link("bob"))
        await cyd.submit_link(harness.console.link("cyd"))
        html = await ann.read("/operators")
        text = text_of(html)
        assert "ann This browser" in text
        assert "bob Firefox on Linux, since 2023-11-14 22:13:20 UTC, with a link" in text
        identifier = html.partition("<bdi>bob</bdi>")[0].rpartition('id="session-')[2][:16]
        assert (await ann.post("/operators/sign-out", session=identifier)).status_code == 403
        assert (await ann.decide("/operators/sign-out")).status_code == 400
        assert (await ann.decide("/operators/sign-out", session=identifier)).status_code == 303
        assert (await bob.get("/approvals")).status_code == 401
        assert (await cyd.get("/approvals")).status_code == 200
        await ann.decide("/operators/sign-out", session="all")
        for client in (ann, cyd):
            assert (await client.get("/approvals")).status_code == 401


async def test_signing_in_leads_to_the_requested_page(harness: Harness) -> None:
    wanted = "/approvals/0?a=b"
    async with anonymous(harness.console) as client:
        shown = await client.get(wanted)
        assert f'name="next" value="{wanted}"' in shown.text
        link = f" {harness.console.link('ann')} "
        response = await client.post("/sign-in", link=link, next=wanted)
    assert (response.status_code, leads_to(response)) == (200, wanted)


async def test_a_signed_in_operator_can_continue_from_a_link_on_another_site(
    ann: WebClient,
) -> None:
    cookies = dict(ann.http.cookies)
    ann.http.cookies.clear()  # like a browser that follows a link on another site
    shown = await ann.get("/policy")
    assert '<a href="/policy">' in shown.text
    ann.http.cookies.update(cookies)
    assert "<h1>Policy</h1>" in await ann.read("/policy")


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
    assert (response.status_code, leads_to(response)) == (200, "/approvals")


async def test_the_decision_code_is_shown_only_at_sign_in(ann: WebClient) -> None:
    for path in ("/approvals", "/operators", "/policy", "/sign-in"):
        assert ann.code not in await ann.read(path)


async def test_a_decision_code_can_be_typed_without_its_hyphens_and_in_capitals(
    ann: WebClient,
) -> None:
    code = f" {ann.code.replace('-', '').upper()} "
    assert (await ann.post("/operators", code=code, name="bob")).status_code == 200


async def test_inviting_an_operator_requires_the_decision_code(ann: WebClient) -> None:
    assert (await ann.post("/operators", name="eve")).status_code == 403


async def test_an_oversized_form_is_refused(ann: WebClient) -> None:
    assert (await ann.post("/operators", name="x" * 20_000)).status_code == 413
