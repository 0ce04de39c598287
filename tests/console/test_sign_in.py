"""Who may come in."""

from pathlib import Path

import httpx
import pytest

from calls_mcp.console import Address, open_console
from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import load_settings
from tests.console.desk import Browser, Desk

pytestmark = pytest.mark.anyio


async def test_a_link_lets_one_browser_in_once(desk: Desk) -> None:
    link = desk.console.link("ann")
    async with desk.stranger() as first, desk.stranger() as second:
        entered = await first.enter(link)
        assert (entered.status_code, entered.headers["location"]) == (303, "/approvals")
        assert (await first.get("/")).headers["location"] == "/approvals"
        assert "ann" in await first.read("/approvals")
        assert (await second.enter(link)).status_code == 401
        assert (await second.get("/approvals")).status_code == 401


async def test_looking_at_a_link_does_not_use_it_up(desk: Desk) -> None:
    link = desk.console.link("ann")
    async with desk.stranger() as browser:
        shown = await browser.get(link.removeprefix(desk.console.url))
        assert shown.status_code == 200
        assert "set-cookie" not in shown.headers
        assert (await browser.enter(link)).status_code == 303


async def test_a_link_lapses(desk: Desk) -> None:
    link = desk.console.link("ann")
    desk.rig.clock.advance(600)
    async with desk.stranger() as browser:
        assert (await browser.enter(link)).status_code == 401


async def test_a_session_lapses(desk: Desk, browser: Browser) -> None:
    desk.rig.clock.advance(12 * 3600)
    assert (await browser.get("/approvals")).status_code == 401


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(desk: Desk) -> None:
    async with desk.stranger() as browser:
        cookie = (await browser.enter(desk.console.link("ann"))).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert "Secure" not in cookie


async def test_behind_https_the_cookie_goes_by_https_only(tmp_path: Path) -> None:
    settings = load_settings({"calls_mcp_state_url": f"sqlite:///{tmp_path}/state.db"})
    place = Address(port=0, public="https://console.example.com")
    async with open_console(settings, place) as console:
        assert console.url == "https://console.example.com"
        secret = console.link("ann").partition("?link=")[2]
        port = console.house.address.port
        async with httpx.AsyncClient(trust_env=False) as http:
            entered = await http.post(
                f"http://127.0.0.1:{port}/sign-in",
                data={"link": secret},
                headers={"Host": "console.example.com", "Origin": console.url},
            )
    assert entered.status_code == 303
    assert entered.headers["set-cookie"].startswith("__Host-")
    assert "Secure" in entered.headers["set-cookie"]


@pytest.mark.parametrize(
    "path", ["/approvals", "/approvals/0", "/audit", "/policy", "/events?topic=approvals"]
)
async def test_without_a_session_nothing_is_shown(desk: Desk, path: str) -> None:
    async with desk.stranger() as browser:
        response = await browser.get(path)
    assert response.status_code == 401
    assert "Not let in" in response.text


async def test_whoever_leaves_is_out(browser: Browser) -> None:
    kept = dict(browser.http.cookies)
    assert (await browser.submit("/approvals", "/sign-out")).status_code == 200
    browser.http.cookies.update(kept)
    assert (await browser.get("/approvals")).status_code == 401


async def test_whoever_is_in_can_let_somebody_else_in(desk: Desk) -> None:
    async with desk.operator() as ann, desk.stranger() as bob:
        shown = await ann.submit("/invitations", "/invitations", name="bob")
        link = shown.text.partition('class="link">')[2].partition("<")[0]
        assert (await bob.enter(link)).status_code == 303
        assert "bob" in await bob.read("/approvals")


async def test_whoever_was_sent_to_a_page_lands_on_it(desk: Desk) -> None:
    async with desk.stranger() as browser:
        shown = await browser.get("/approvals/0?a=b")
        assert 'name="next" value="/approvals/0?a=b"' in shown.text
        link = desk.console.link("ann")
        entered = await browser.post("/sign-in", None, link=f" {link} ", next="/approvals/0?a=b")
    assert (entered.status_code, entered.headers["location"]) == (303, "/approvals/0?a=b")


async def test_whoever_has_come_in_already_goes_on_from_where_another_site_led(
    browser: Browser,
) -> None:
    kept = dict(browser.http.cookies)
    browser.http.cookies.clear()  # as a browser does with a link of another site
    shown = await browser.get("/policy")
    assert '<a href="/policy">' in shown.text
    browser.http.cookies.update(kept)
    assert "Rules" in await browser.read("/policy")


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
async def test_nobody_is_sent_elsewhere(desk: Desk, wanted: str) -> None:
    link = desk.console.link("ann")
    async with desk.stranger() as browser:
        entered = await browser.post("/sign-in", None, link=link, next=wanted)
    assert (entered.status_code, entered.headers["location"]) == (303, "/approvals")


@pytest.mark.parametrize(
    "origin", [None, "https://evil.example", "null", "http://127.0.0.1:1"], ids=str
)
async def test_a_form_of_another_site_is_refused(browser: Browser, origin: str | None) -> None:
    fields = {"csrf": await browser.csrf(), "name": "eve"}
    headers = {"Origin": origin} if origin else {}
    refused = await browser.http.post(f"{browser.url}/invitations", data=fields, headers=headers)
    assert refused.status_code == 403


async def test_a_form_that_is_not_of_this_session_is_refused(desk: Desk) -> None:
    async with desk.operator("ann") as ann, desk.operator("bob") as bob:
        for csrf in ("", "x" * 43, "é", await ann.csrf()):
            assert (await bob.post("/invitations", csrf=csrf, name="eve")).status_code == 403


async def test_a_form_that_is_too_large_is_refused(browser: Browser) -> None:
    assert (await browser.post("/invitations", name="x" * 20_000)).status_code == 413


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1"])
async def test_another_host_name_is_refused(browser: Browser, host: str) -> None:
    assert (await browser.get("/approvals", {"Host": host})).status_code == 421


@pytest.mark.parametrize(
    "path", ["/approvals", "/sign-in?link=x", "/static/console.css", "/nowhere"]
)
async def test_every_answer_forbids_framing_and_inline_scripts(browser: Browser, path: str) -> None:
    headers = (await browser.get(path)).headers
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(Address(host="0.0.0.0", port=0), id="other machines reach it"),  # noqa: S104
        pytest.param(Address(port=0, public="http://console.example.com"), id="http"),
        pytest.param(Address(port=0, public="https://example.com/path"), id="a path"),
        pytest.param(Address(port=0, public="https://user@example.com"), id="a login"),
        pytest.param(Address(port=0, public="https://example.com:port"), id="no port"),
        pytest.param(Address(port=65_536), id="a port out of range"),
    ],
)
async def test_a_place_that_is_not_safe_is_refused(place: Address) -> None:
    with pytest.raises(ConfigurationError):
        async with open_console(load_settings(), place):
            pass
