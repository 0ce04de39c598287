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
from playwright.sync_api import BrowserContext, expect

from calls_mcp.server import mcp_app as app
from tests.chromium import MISPLACED, open_browser
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
COLORS = {
    "styles": {
        "variables": {
            "--color-background-primary": "light-dark(#fffaf0, #101418)",
            "--color-text-primary": "light-dark(#201000, #f0f4f8)",
            "--font-sans": "Elsewhere, serif",
        }
    }
}


@pytest.fixture(scope="module")
def chromium() -> Generator[BrowserContext]:
    """A browser profile with an empty page, which keeps its processes alive between two tests."""
    with open_browser() as browser:
        context = browser.new_context(locale="en-GB")
        context.new_page()
        yield context


@pytest.fixture(scope="module")
def page() -> TextResourceContents:
    return app.contents()


@pytest.fixture
def host(chromium: BrowserContext, page: TextResourceContents) -> Generator[Host]:
    with open_host(chromium, page, {"locale": "en-GB", "timeZone": "UTC"}) as host:
        yield host
        assert host.requests == [HOST, VIEW]
        assert host.complaints == []


def shown(host: Host) -> str:
    return host.view.locator("main").inner_text()


def test_a_call_is_a_card_with_a_timeline(host: Host) -> None:
    host.show({"outcome": "done", "call": ENDED})
    view = host.view
    expect(view.locator("h1")).to_have_text("Call to +1 500 555 0205")
    expect(view.get_by_role("status")).to_have_text("Completed")
    expect(view.locator("#shown > p")).to_have_text(
        "A person or a machine answered (no machine detection result). It lasted 1 h 1 min 3 s."
    )
    view.get_by_text("Details").click()
    facts = dict(
        zip(view.locator("dt").all_inner_texts(), view.locator("dd").all_inner_texts(), strict=True)
    )
    assert facts == {
        "From": "+1 500 555 0006",
        "To": "+1 500 555 0205",
        "Caller name": "ACME",
        "Duration": "1 h 1 min 3 s",
        "Cost": "0.013 USD",
        "Direction": "Outbound",
        "Call SID": SID,
    }
    assert events(host) == [
        "25 Nov 2026",
        "10:00:00 Created",
        "10:00:05 Started after 1.2 s in the queue",
        "11:01:08 Completed after 1 h 1 min 3 s",
    ]


def events(host: Host) -> list[str]:
    """The lines of the timeline."""
    lines = host.view.locator("li").all_inner_texts()
    return [" ".join(line.split()) for line in lines]


HOW_IT_WENT: dict[str, dict[str, Any]] = {
    "A person answered. It lasted 9 s.": {"answered_by": "human", "duration_seconds": 9},
    "An answering machine answered. It lasted 9 s.": {
        "answered_by": "machine_end_beep",
        "duration_seconds": 9,
    },
    "The call was answered. It lasted 9 s.": {"direction": "inbound", "duration_seconds": 9},
    "The call has ended.": {"duration_seconds": 0},
    "Nobody answered.": {"status": "no-answer"},
    "The line was busy.": {"status": "busy"},
    "The call failed.": {"status": "failed"},
    "The call was canceled before it was answered.": {"status": "canceled"},
    "The call was live when this was read. It may have changed since.": LIVE,
    "The status of this call is unknown.": {"status": "new", "live": None},
}


def test_a_card_says_how_the_call_went(host: Host) -> None:
    for said, changes in HOW_IT_WENT.items():
        host.show({"outcome": "done", "call": ENDED | changes})
        expect(host.view.locator("#shown > p")).to_have_text(said)


@pytest.mark.parametrize("status", ["busy", "no-answer", "failed", "canceled"])
def test_an_unanswered_call_has_no_duration(host: Host, status: str) -> None:
    host.show({"outcome": "done", "call": MISSED | {"status": status}})
    assert "0 s" not in shown(host)


def test_only_the_cost_of_an_answered_call_is_not_known_yet(host: Host) -> None:
    for status, cost in (("completed", "not known yet"), ("busy", "none reported")):
        host.show({"outcome": "done", "call": MISSED | {"status": status, "cost": None}})
        host.view.get_by_text("Details").click()
        assert cost in shown(host)


def test_an_incoming_call_is_named_after_its_caller(host: Host) -> None:
    host.show({"outcome": "done", "call": ENDED | {"direction": "inbound"}})
    expect(host.view.locator("h1")).to_have_text("Call from +1 500 555 0006")


def test_a_timeline_names_each_day_once(host: Host) -> None:
    host.show({"outcome": "done", "call": ENDED | {"ended_at": "2026-11-26T00:00:09Z"}})
    days = [line for line in events(host) if line.endswith("2026")]
    assert days == ["25 Nov 2026", "26 Nov 2026"]


NUMBERS = {
    "+12025550123": "+1 202 555 0123",
    "+442079460123": "+44 207 946 0123",
    "+3531234567": "+353 123 4567",
    "sip:+12025550123@example.com": "sip:+12025550123@example.com",
    "client:desk": "client:desk",
    "22395": "22395",
}


def test_digits_of_phone_numbers_are_grouped(host: Host) -> None:
    calls = [ENDED | {"to": number} for number in NUMBERS]
    host.show({"outcome": "done", "calls": calls, "count": len(calls)})
    assert host.column("To") == [*NUMBERS.values()]


def test_a_change_whose_result_is_unknown_shows_the_error_and_the_call(host: Host) -> None:
    host.show(ERROR | {"call": ENDED})
    expect(host.view.locator("#shown > p").first).to_have_text("There is no such call.")
    expect(host.view.locator("h1")).to_have_text("Call to +1 500 555 0205")


def test_a_later_result_takes_the_place_of_an_earlier_one(host: Host) -> None:
    host.show({"outcome": "done", "call": LIVE})
    expect(host.view.locator("li").last).to_have_text("Ringing")
    host.show({"outcome": "done", "call": ENDED})
    expect(host.view.locator("li").last).to_contain_text("Completed")
    host.show(CALLS)
    expect(host.view.get_by_role("row")).to_have_count(5)
    expect(host.view.locator("li")).to_have_count(0)


LOW_TO_HIGH = {
    "Time": ["24 Nov 2026 10:00", "25 Nov 2026 09:00", "25 Nov 2026 10:00", "25 Nov 2026 10:00"],
    "Status": ["Ringing", "Completed", "No answer", "Failed"],
    "Duration": ["9 s", "1 h 1 min 3 s", "", ""],
    "Cost": ["0.013 USD", "0.1 USD", "0.2 USD", ""],
}


@pytest.mark.parametrize("title", LOW_TO_HIGH)
def test_a_list_can_be_sorted_by_each_measure_in_both_directions(host: Host, title: str) -> None:
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
    expect(host.view.get_by_role("status")).to_have_text(f"4 calls, by {title.lower()}, descending")


def test_sums_in_different_currencies_are_not_compared(host: Host) -> None:
    calls = [
        ENDED | {"cost": c, "currency": k} for c, k in (("9", "USD"), ("1", "USD"), ("5", "JPY"))
    ]
    host.show({"outcome": "done", "calls": calls, "count": 3})
    host.view.get_by_role("button", name="Cost").click()
    assert host.column("Cost") == ["5 JPY", "1 USD", "9 USD"]


def test_order_and_focus_survive_a_new_list(host: Host) -> None:
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
    assert host.column("Status") == ["Failed", "No answer", "Completed"]
    expect(host.view.get_by_role("button", name="Status")).to_be_focused()


@pytest.mark.parametrize(
    ("content", "title", "words"),
    [
        (ERROR, "Error", ["There is no such call.", "Look for it."]),
        ({"outcome": "declined", "reason": "not today"}, "Declined", ["not today"]),
        ({"outcome": "done", "deleted": SID}, "Record deleted", [f"The record of {SID} is gone."]),
        (
            {
                "outcome": "awaiting_operator",
                "confirmation": {"preview": "End the call.\nNow.", "approval": "a-1"},
            },
            "Waiting for an operator's approval",
            ["End the call.", "Now."],
        ),
        (
            {
                "outcome": "confirmation_required",
                "confirmation": {
                    "preview": "End the call.",
                    "token": "t-1",
                    "expires_at": "2026-11-25T10:05:00Z",
                },
            },
            "Waiting for your confirmation",
            ["End the call.", "Expires: 25 Nov 2026 10:05"],
        ),
    ],
)
def test_other_results_are_shown_as_plain_lines_without_a_token(
    host: Host, content: dict[str, Any], title: str, words: list[str]
) -> None:
    host.show(content)
    expect(host.view.locator("h1")).to_have_text(title)
    assert host.view.locator("#shown p").all_inner_texts() == words
    assert host.view.locator("button, table, dl").count() == 0


def test_a_result_without_structured_content_is_shown_as_its_text(host: Host) -> None:
    host.show(CallToolResult(content=[TextContent(text="one\ntwo")], is_error=True))
    expect(host.view.locator("p", has_text="two")).to_be_visible()
    host.notify("ui/notifications/tool-cancelled", {"reason": "enough"})
    expect(host.view.locator("h1")).to_have_text("Canceled")
    expect(host.view.locator("#shown p")).to_have_text("enough")


HOSTILE = (
    "<img src=https://evil.test/x onerror=\"parent.postMessage('x', '*')\">"
    "<script>fetch('https://evil.test')</script>\u202e6000555\u202c\u200b\u3164\ue000\u0007&amp;"
)
AS_SHOWN = (
    "<img src=https://evil.test/x onerror=\"parent.postMessage('x', '*')\">"
    "<script>fetch('https://evil.test')</script>U+202E6000555U+202CU+200BU+3164U+E000U+0007&amp;"
)


@pytest.mark.parametrize("shape", ["card", "list", "line", "text"])
def test_text_from_strangers_is_shown_in_full_and_never_as_markup(host: Host, shape: str) -> None:
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


def test_no_key_or_click_makes_the_page_call_its_host(host: Host) -> None:
    for result in RESULTS:
        host.show(result)
        for button in host.view.get_by_role("button").all():
            button.click()
    assert {message["method"] for message in host.told} == ONLY_TOLD
    assert host.view.locator("a, form, input").count() == 0


ODD_MESSAGES: list[Any] = [None, 1, "x", [], {}, {"id": 1}, {"method": 3}]
SENT = "(message) => frame.contentWindow.postMessage(message, '*')"


def test_the_page_accepts_only_valid_messages_from_its_host(host: Host) -> None:
    host.show({"outcome": "done", "call": LIVE})
    heading = "Call to +1 500 555 0205"
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
def test_an_unknown_result_breaks_nothing(host: Host, content: dict[str, Any]) -> None:
    host.show({"outcome": "done"} | content)
    host.show({"outcome": "done", "call": ENDED})
    expect(host.view.locator("h1")).to_have_text("Call to +1 500 555 0205")


def test_the_page_uses_the_hosts_colors_and_fonts_and_follows_its_theme(
    chromium: BrowserContext, page: TextResourceContents
) -> None:
    with open_host(chromium, page, {"theme": "light", **COLORS}) as host:
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
        expect(host.view.locator("li").last).to_have_text("Ringing")


def test_only_fonts_are_taken_from_a_hosts_style(
    chromium: BrowserContext, page: TextResourceContents
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


def test_times_are_shown_in_the_users_time_zone_and_format(
    chromium: BrowserContext, page: TextResourceContents
) -> None:
    with open_host(chromium, page, {"locale": "de-DE", "timeZone": "Asia/Tokyo"}) as host:
        host.show({"outcome": "done", "call": LIVE})
        assert events(host)[:2] == ["25.11.2026", "19:00:00 Created"]
        host.change(timeZone="America/Los_Angeles")
        assert events(host)[:2] == ["25.11.2026", "02:00:00 Created"]
        host.change(timeZone="Nowhere/At all", locale="?")
        assert "2026" in events(host)[0]


def test_the_page_reports_its_height(host: Host) -> None:
    host.show({"outcome": "done", "calls": [ENDED] * 50, "count": 50})
    height = host.view.evaluate("document.documentElement.getBoundingClientRect().height")
    host.page.wait_for_function("(height) => told.at(-1).params?.height >= height", arg=int(height))


SIP = "sip:a.very.long.user.name+extension@gateway.region-1.voip.example.com"
LONG = f"{'العربية ' * 6}👩🏽‍🚀 {'long' * 12}@department.example.com"
DIFFICULT: dict[str, Any] = ENDED | {
    "from": SIP,
    "to": "client:مكتب-الاستقبال👩🏽‍🚀",
    "caller_name": LONG,
    "forwarded_from": "+442079460123",
    "duration_seconds": 50_463,
    "cost": "123.4567",
    "answered_by": "machine_end_beep",
    "parent_call_sid": SID,
}
LONG_NUMBERS: dict[str, Any] = ENDED | {"from": "+493023125112", "to": "+442079460123"}
LISTS: list[list[dict[str, Any]]] = [[], [LONG_NUMBERS], [DIFFICULT, LIVE, *[LONG_NUMBERS] * 58]]
EDGES = """() => Object.fromEntries(
  ["Time", "From", "To", "Status", "Duration", "Cost"].map((title) => {
    const cells = [...document.querySelectorAll(`td[data-column=${title}]`)];
    const boxes = cells.map((cell) => cell.getBoundingClientRect());
    const edge = (side) => [...new Set(boxes.map((box) => Math.round(box[side])))];
    return [title, {left: edge("left"), right: edge("right"), top: edge("top")}];
  }))"""


@pytest.mark.parametrize("width", [320, 360, 559, 560, 768, 1280, 1920])
def test_difficult_data_fits_and_columns_are_aligned_at_every_width(
    chromium: BrowserContext, page: TextResourceContents, width: int
) -> None:
    with open_host(chromium, page, {"locale": "en-GB", "timeZone": "UTC"}, width) as host:
        for call in (DIFFICULT, FAILED, LIVE):
            host.show({"outcome": "done", "call": call})
            host.view.get_by_text("Details").click()
            assert host.view.evaluate(MISPLACED) == []
        for calls in LISTS:
            host.show({"outcome": "done", "calls": calls, "count": len(calls)})
            assert host.view.evaluate(MISPLACED) == []
        edges, is_table = host.view.evaluate(EDGES), width >= 560
        for title in ("Time", "From", "To"):
            assert len(edges[title]["left"]) == 1, title
        for title in ("Duration", "Cost"):
            assert len(edges[title]["right"]) == 1, title
        assert (edges["Duration"]["top"] == edges["To"]["top"]) == is_table
        assert (host.view.get_by_role("columnheader", name="To").count() == 1) == is_table
        assert host.view.get_by_text(SID).count() == 0


@pytest.mark.needs(tool="axe-core")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("colors", [{}, COLORS], ids=["its own", "the host's"])
def test_the_page_is_accessible(
    chromium: BrowserContext,
    page: TextResourceContents,
    theme: Literal["light", "dark"],
    width: int,
    colors: dict[str, Any],
) -> None:
    with open_host(chromium, page, {"theme": theme, **colors}, width) as host:
        for result in [*RESULTS, {"outcome": "done", "call": ENDED | {"caller_name": HOSTILE}}]:
            host.show(result)
            for button in host.view.get_by_role("button").all()[:1]:
                button.click()
            assert host.violations() == []
            assert host.view.evaluate("document.documentElement.scrollWidth") <= width


def test_results_of_the_server_are_shown(chromium: BrowserContext) -> None:
    with ThreadPoolExecutor() as elsewhere:  # Playwright has its own event loop here
        contents, fetched, listed = elsewhere.submit(anyio.run, told_by_a_server).result()
    with open_host(chromium, contents) as host:
        host.show(fetched)
        assert TALKS_FOR_AN_HOUR == "+15005550205"
        expect(host.view.locator("h1")).to_have_text("Call to +1 500 555 0205")
        host.show(listed)
        expect(host.view.get_by_role("row")).to_have_count(1 + structured(listed)["count"])


async def told_by_a_server() -> tuple[TextResourceContents, CallToolResult, CallToolResult]:
    """The page and two results, as a host gets them."""
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
