"""The page that shows calls, in a real browser, with a host around it."""

import re
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import anyio
import pytest
from mcp import Client
from mcp.client.extension import advertise
from mcp_types import CallToolResult, TextContent, TextResourceContents
from playwright.sync_api import Browser, expect

from calls_mcp.server import mcp_app as app
from tests.chromium import open_browser
from tests.harness import TALKS_FOR_AN_HOUR, open_harness, placing, structured
from tests.server.app_host import HOST, VIEW, Host, open_host

SID = "CA" + "0" * 32
LIVE: dict[str, Any] = {
    "sid": SID,
    "status": "ringing",
    "live": True,
    "direction": "outbound-api",
    "from": "+15005550006",
    "to": "+15005550205",
    "created_at": "2026-11-25T10:00:00Z",
}
ENDED: dict[str, Any] = LIVE | {
    "status": "completed",
    "live": False,
    "started_at": "2026-11-25T10:00:05Z",
    "ended_at": "2026-11-25T11:01:08Z",
    "duration_seconds": 3663,
    "queue_ms": 1200,
    "cost": "0.013",
    "currency": "USD",
    "caller_name": "ACME",
}
MISSED: dict[str, Any] = LIVE | {
    "status": "no-answer",
    "live": False,
    "started_at": "2026-11-25T09:00:00Z",
    "duration_seconds": 0,
    "cost": "0.2",
    "currency": "USD",
}
FAILED: dict[str, Any] = MISSED | {
    "status": "failed",
    "started_at": "2026-11-24T10:00:00Z",
    "duration_seconds": 9,
    "cost": "0.1",
}
CALLS = {"outcome": "done", "calls": [LIVE, ENDED, MISSED, FAILED], "count": 4, "next_cursor": "x"}
ERROR = {
    "outcome": "error",
    "error": {"kind": "not_found", "message": "There is no such call.", "hint": "Look for it."},
}
RESULTS: list[dict[str, Any]] = [
    {"outcome": "done", "call": LIVE, "sandbox": True},
    {"outcome": "done", "call": ENDED, "warnings": ["`x` was ignored"]},
    CALLS,
    {"outcome": "done", "calls": [], "count": 0},
    ERROR,
]
COLOURS = {
    "styles": {
        "variables": {
            "--color-background-primary": "light-dark(#fffaf0, #101418)",
            "--color-text-primary": "light-dark(#201000, #f0f4f8)",
            "--font-sans": "Elsewhere, serif",
        }
    }
}


@pytest.fixture(scope="module")
def chromium() -> Generator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def page() -> TextResourceContents:
    return app.contents()


@pytest.fixture
def host(chromium: Browser, page: TextResourceContents) -> Generator[Host]:
    with open_host(chromium, page, {"locale": "en-GB", "timeZone": "UTC"}) as host:
        yield host
        assert host.requests == [HOST, VIEW]
        assert host.complaints == []


def shown(host: Host) -> str:
    return host.view.locator("main").inner_text()


def test_a_call_is_a_card_with_a_timeline(host: Host) -> None:
    host.show({"outcome": "done", "call": ENDED})
    view = host.view
    expect(view.locator("h1")).to_have_text("Call +15005550006 → +15005550205")
    facts = dict(
        zip(view.locator("dt").all_inner_texts(), view.locator("dd").all_inner_texts(), strict=True)
    )
    assert facts == {
        "Status": "completed",
        "From": "+15005550006",
        "To": "+15005550205",
        "Direction": "outbound-api",
        "Caller name": "ACME",
        "Duration": "1 h 1 min 3 s",
        "Cost": "0.013 USD",
        "Call SID": SID,
    }
    events = [re.sub(r"\s+", " ", each) for each in view.locator("li").all_inner_texts()]
    assert events == [
        "Created 25 Nov 2026, 10:00:00",
        "Queued for 1200 ms",
        "Started 25 Nov 2026, 10:00:05",
        "Ended: completed 25 Nov 2026, 11:01:08 after 1 h 1 min 3 s",
    ]
    expect(view.get_by_role("status")).to_have_text("Call completed")


def test_a_later_result_takes_the_place_of_an_earlier_one(host: Host) -> None:
    host.show({"outcome": "done", "call": LIVE})
    expect(host.view.locator("li").last).to_have_text("Now: ringing")
    host.show({"outcome": "done", "call": ENDED})
    expect(host.view.locator("li").last).to_contain_text("Ended: completed")
    host.show(CALLS)
    expect(host.view.get_by_role("row")).to_have_count(5)
    expect(host.view.locator("li")).to_have_count(0)


LOW_TO_HIGH = {
    "Time": ["24 Nov", "25 Nov 2026, 09:00:00", "25 Nov 2026, 10:00:00", "25 Nov 2026, 10:00:05"],
    "Status": ["ringing", "completed", "no-answer", "failed"],
    "Duration": ["0 s", "9 s", "1 h 1 min 3 s", ""],
    "Cost": ["0.013 USD", "0.1 USD", "0.2 USD", ""],
}


@pytest.mark.parametrize("title", LOW_TO_HIGH)
def test_a_list_is_sorted_by_any_of_its_measures_either_way(host: Host, title: str) -> None:
    host.show(CALLS)
    button = host.view.get_by_role("button", name=title)
    header = host.view.get_by_role("columnheader", name=title)
    expect(host.view.get_by_role("status")).to_have_text("4 calls, newest first")
    button.click()
    expect(header).to_have_attribute("aria-sort", "ascending")
    rising = host.column(title)
    assert all(map(str.startswith, rising, LOW_TO_HIGH[title]))
    button.click()
    expect(header).to_have_attribute("aria-sort", "descending")
    known = [each for each in rising if each]
    assert host.column(title) == [*reversed(known), *[""] * rising.count("")]
    expect(host.view.locator("[aria-sort]")).to_have_count(1)
    expect(host.view.get_by_role("status")).to_have_text(
        f"4 calls, by {title.lower()}, highest first"
    )


def test_sums_in_different_currencies_are_not_compared(host: Host) -> None:
    calls = [
        ENDED | {"cost": c, "currency": k} for c, k in (("9", "USD"), ("1", "USD"), ("5", "JPY"))
    ]
    host.show({"outcome": "done", "calls": calls, "count": 3})
    host.view.get_by_role("button", name="Cost").click()
    assert host.column("Cost") == ["5 JPY", "1 USD", "9 USD"]


def test_the_order_and_the_focus_outlive_a_new_list(host: Host) -> None:
    host.show(CALLS)
    host.view.get_by_role("button", name="Time").focus()
    host.page.keyboard.press("Tab")
    button = host.view.get_by_role("button", name="Status")
    expect(button).to_be_focused()
    host.page.keyboard.press("Enter")
    host.page.keyboard.press("Enter")
    expect(button).to_be_focused()
    host.show({"outcome": "done", "calls": [ENDED, FAILED, MISSED], "count": 3})
    expect(host.view.get_by_role("row")).to_have_count(4)
    assert host.column("Status") == ["failed", "no-answer", "completed"]
    expect(host.view.get_by_role("button", name="Status")).to_be_focused()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ERROR, ["There is no such call.", "Look for it."]),
        ({"outcome": "declined", "reason": "not today"}, ["declined: not today"]),
        ({"outcome": "done", "deleted": SID}, [f"Deleted the record of {SID}."]),
        (
            {
                "outcome": "awaiting_operator",
                "confirmation": {"preview": "End the call.", "approval": "a-1"},
            },
            ["Not done yet. Waiting for approval from an operator.", "End the call."],
        ),
        (
            {
                "outcome": "confirmation_required",
                "confirmation": {"preview": "End the call.", "token": "t-1"},
            },
            ["Not done yet. Waiting for approval from the user.", "End the call."],
        ),
    ],
)
def test_what_is_no_call_is_told_in_plain_lines_without_a_token(
    host: Host, content: dict[str, Any], words: list[str]
) -> None:
    host.show(content)
    expect(host.view.locator("p", has_text=words[0])).to_be_visible()
    assert host.view.locator("#shown p").all_inner_texts() == words
    assert host.view.locator("button, table, dl").count() == 0


def test_a_result_without_structure_is_told_by_its_text(host: Host) -> None:
    host.show(CallToolResult(content=[TextContent(text="one\ntwo")], is_error=True))
    expect(host.view.locator("p", has_text="two")).to_be_visible()
    host.notify("ui/notifications/tool-cancelled", {"reason": "enough"})
    expect(host.view.locator("p", has_text="Cancelled: enough")).to_be_visible()


HOSTILE = (
    "<img src=https://evil.test/x onerror=\"parent.postMessage('x', '*')\">"
    "<script>fetch('https://evil.test')</script>\u202e6000555\u202c\u200b\u3164\ue000\u0007&amp;"
)
AS_SHOWN = (
    "<img src=https://evil.test/x onerror=\"parent.postMessage('x', '*')\">"
    "<script>fetch('https://evil.test')</script>U+202E6000555U+202CU+200BU+3164U+E000U+0007&amp;"
)


@pytest.mark.parametrize("shape", ["card", "list", "line", "text"])
def test_whatever_a_stranger_writes_is_text_and_all_of_it_is_seen(host: Host, shape: str) -> None:
    call = ENDED | dict.fromkeys(
        ("from", "to", "caller_name", "status", "direction", "currency", "created_at"), HOSTILE
    )
    results: dict[str, CallToolResult | dict[str, Any]] = {
        "card": {"outcome": "done", "call": call, "warnings": [HOSTILE]},
        "list": {"outcome": "done", "calls": [call], "count": 1},
        "line": {"outcome": "error", "error": {"kind": HOSTILE, "message": "", "hint": HOSTILE}},
        "text": CallToolResult(content=[TextContent(text=HOSTILE)]),
    }
    host.show(results[shape])
    expect(host.view.locator("bdi", has_text=AS_SHOWN).first).to_be_visible()
    assert host.view.locator("main img, main script").count() == 0
    assert not re.search("[\u202a-\u202e\u200b\u3164\ue000\u0007]", shown(host))
    assert host.view.locator("bdi .unseen").first.inner_text() == "U+202E"
    assert {message.get("method", "") for message in host.told} <= ONLY_TOLD


ONLY_TOLD = {
    "ui/initialize",
    "ui/notifications/initialized",
    "ui/notifications/size-changed",
}


def test_it_asks_its_host_for_nothing_whatever_is_pressed(host: Host) -> None:
    for result in RESULTS:
        host.show(result)
        for button in host.view.get_by_role("button").all():
            button.click()
    assert {message["method"] for message in host.told} == ONLY_TOLD
    assert host.view.locator("a, form, input").count() == 0


ODD_MESSAGES: list[Any] = [None, 1, "x", [], {}, {"id": 1}, {"method": 3}]
SENT = "(message) => frame.contentWindow.postMessage(message, '*')"


def test_it_takes_messages_from_its_host_alone_and_only_such_as_it_can_read(host: Host) -> None:
    host.show({"outcome": "done", "call": LIVE})
    heading = "Call +15005550006 → +15005550205"
    expect(host.view.locator("h1")).to_have_text(heading)
    forged = {"method": "ui/notifications/tool-result", "params": {"structuredContent": ERROR}}
    host.view.evaluate("(message) => window.postMessage(message, '*')", forged)
    for odd in ODD_MESSAGES[:4]:
        host.page.evaluate(SENT, {"method": "ui/notifications/tool-result", "params": odd})
        host.page.evaluate(SENT, odd)
    for odd in ODD_MESSAGES[4:]:
        host.page.evaluate(SENT, odd)
    assert host.request("ping")["result"] == {}
    assert host.request("ui/resource-teardown")["result"] == {}
    assert host.request("tools/list")["error"]["code"] == -32601
    expect(host.view.locator("h1")).to_have_text(heading)


ODD_CALLS: list[object] = [
    None,
    1,
    "x",
    {},
    {"status": 3, "cost": {}, "duration_seconds": "9"},
]
ODD: list[dict[str, Any]] = [
    {"calls": ODD_CALLS},
    {"call": {}},
    {"call": {"created_at": "yesterday", "cost": "much", "duration_seconds": -1}},
    {"error": {}},
    {"warnings": 1, "confirmation": []},
]


@pytest.mark.parametrize("content", ODD)
def test_a_shape_that_is_not_known_breaks_nothing(host: Host, content: dict[str, Any]) -> None:
    host.show({"outcome": "done"} | content)
    host.show({"outcome": "done", "call": ENDED})
    expect(host.view.locator("h1")).to_have_text("Call +15005550006 → +15005550205")


def test_it_wears_the_hosts_colours_and_fonts_and_changes_its_theme(
    chromium: Browser, page: TextResourceContents
) -> None:
    with open_host(chromium, page, {"theme": "light", **COLOURS}) as host:
        host.show({"outcome": "done", "call": LIVE})
        body = host.view.locator("body")
        expect(body).to_have_css("background-color", "rgb(255, 250, 240)")
        expect(body).to_have_css("color", "rgb(32, 16, 0)")
        expect(body).to_have_css("font-family", "Elsewhere, serif")
        host.change(theme="dark")
        expect(body).to_have_css("background-color", "rgb(16, 20, 24)")
        expect(body).to_have_css("color", "rgb(240, 244, 248)")
        host.change(styles={"variables": {"--color-text-primary": "#ffffff", "color": "red"}})
        expect(body).to_have_css("color", "rgb(255, 255, 255)")
        expect(host.view.locator("li").last).to_have_text("Now: ringing")


def test_of_a_hosts_style_it_takes_the_fonts_alone(
    chromium: Browser, page: TextResourceContents
) -> None:
    css = (
        "@import 'https://evil.test/x.css'; h1 {display: none}"
        "@font-face {font-family: Theirs; src: url(data:font/woff2;base64,)}"
    )
    with open_host(chromium, page, {"styles": {"css": {"fonts": css}}}) as host:
        host.show({"outcome": "done", "call": LIVE})
        expect(host.view.locator("h1")).to_be_visible()
        families = host.view.evaluate("[...document.fonts].map(({family}) => family)")
        assert families == ["Theirs"]
        assert host.requests == [HOST, VIEW]


def test_times_are_told_in_the_users_zone_and_manner(
    chromium: Browser, page: TextResourceContents
) -> None:
    with open_host(chromium, page, {"locale": "de-DE", "timeZone": "Asia/Tokyo"}) as host:
        host.show({"outcome": "done", "call": LIVE})
        expect(host.view.locator("time").first).to_have_text("25.11.2026, 19:00:00")
        host.change(timeZone="UTC")
        expect(host.view.locator("time").first).to_have_text("25.11.2026, 10:00:00")
        host.change(timeZone="Nowhere/At all", locale="?")
        expect(host.view.locator("time").first).to_contain_text("2026")


def test_it_tells_how_high_it_is(host: Host) -> None:
    host.show({"outcome": "done", "calls": [ENDED] * 50, "count": 50})
    height = host.view.evaluate("document.documentElement.getBoundingClientRect().height")
    host.page.wait_for_function("(height) => told.at(-1).params?.height >= height", arg=int(height))


@pytest.mark.needs(tool="axe-core")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("colours", [{}, COLOURS], ids=["its own", "the host's"])
def test_everybody_can_read_it(
    chromium: Browser,
    page: TextResourceContents,
    theme: Literal["light", "dark"],
    width: int,
    colours: dict[str, Any],
) -> None:
    with open_host(chromium, page, {"theme": theme, **colours}, width) as host:
        for result in [*RESULTS, {"outcome": "done", "call": ENDED | {"caller_name": HOSTILE}}]:
            host.show(result)
            for button in host.view.get_by_role("button").all()[:1]:
                button.click()
            assert host.violations() == []
            assert host.view.evaluate("document.documentElement.scrollWidth") <= width


def test_what_the_server_tells_is_what_is_shown(chromium: Browser) -> None:
    with ThreadPoolExecutor() as elsewhere:  # Playwright has an event loop of its own here
        contents, fetched, listed = elsewhere.submit(anyio.run, told_by_a_server).result()
    with open_host(chromium, contents) as host:
        host.show(fetched)
        expect(host.view.locator("h1")).to_contain_text(f"→ {TALKS_FOR_AN_HOUR}")
        host.show(listed)
        expect(host.view.get_by_role("row")).to_have_count(1 + structured(listed)["count"])


async def told_by_a_server() -> tuple[TextResourceContents, CallToolResult, CallToolResult]:
    """The page and two results, as a host comes by them."""
    extension = advertise(app.EXTENSION, {"mimeTypes": [app.MIME_TYPE]})
    async with (
        open_harness() as harness,
        Client(harness.server, extensions=[extension], cache=None) as client,
    ):
        asked = structured(await client.call_tool("create_call", placing()))
        token = asked["confirmation"]["token"]
        await client.call_tool("create_call", placing(confirmation_token=token))
        listed = await client.call_tool("list_calls", {})
        sid = structured(listed)["calls"][0]["sid"]
        fetched = await client.call_tool("fetch_call", {"sid": sid})
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        uri = (tools["fetch_call"].meta or {})["ui"]["resourceUri"]
        (contents,) = (await client.read_resource(uri)).contents
    assert isinstance(contents, TextResourceContents)
    return contents, fetched, listed
