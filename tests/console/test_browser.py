"""The pages in Chromium."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Literal

import pytest
from playwright.async_api import Browser, Locator, ViewportSize, expect

from tests.audit_records import lines_in
from tests.chromium import MISPLACED, open_async_browser
from tests.console.harness import Harness, sign_in
from tests.console.test_approvals_page import insert_requests
from tests.console.window import Window, open_window
from tests.harness import placing
from tests.upstream import Upstream, answer

pytestmark = pytest.mark.anyio

HOSTILE = "<img src=x onerror=hacked=1><script>hacked=1</script>\u202e6000555\u202c"
AS_SHOWN = "<img src=x onerror=hacked=1><script>hacked=1</script>"
SCHEMES: Sequence[Literal["light", "dark"]] = ("light", "dark")
OPEN_DETAILS = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"
WIDTH = "document.documentElement.scrollWidth"

with_rules = pytest.mark.parametrize("rules", ['place = "never"\nhang_up = "operator"'], ids=[""])
"""Placing a call needs no approval; ending one needs the operator's."""


@pytest.fixture
async def window(chromium: Browser, harness: Harness) -> AsyncGenerator[Window]:
    """Ann's window."""
    async with open_window(chromium, harness.console.link("ann")) as window:
        yield window


async def request_call(harness: Harness, name: str = "tester", **arguments: object) -> str:
    """Have an agent request a call, one second after the previous."""
    harness.clock.advance(1)
    return await harness.request_call(name, **arguments)


async def retry(harness: Harness, **arguments: object) -> str:
    """Have the agent repeat its request. Return the outcome."""
    async with harness.connect() as agent:
        outcome: str = (await agent.call("create_call", **placing(**arguments)))["outcome"]
    return outcome


async def request_hang_up(harness: Harness, sid: str) -> str:
    """Have an agent with a hostile name request to end a call. Return the approval request."""
    async with harness.connect(name=HOSTILE) as agent:
        asked = await agent.call("update_call", sid=sid, status="completed")
    approval: str = asked["confirmation"]["approval"]
    return approval


async def deny_as_bob(harness: Harness, approval: str) -> None:
    """Deny a request in another browser."""
    async with sign_in(harness.console, "bob") as bob:
        await bob.decide(f"/approvals/{approval}", decision="deny")


@pytest.mark.needs(tool="axe-core")
@with_rules
async def test_every_page_is_accessible_light_and_dark_wide_and_narrow(
    harness: Harness, window: Window
) -> None:
    sid = await harness.place_call(HOSTILE)
    approval = await request_hang_up(harness, sid)
    pages = ["/approvals", "/audit?check=now", "/policy", "/calls", "/overview", "/operators"]
    pages += [f"/approvals/{approval}", f"/calls/{sid}", f"/calls/{sid}/hang-up"]
    link = harness.console.link("bob").removeprefix(harness.console.url)
    pages += [link, "/sign-in?link=x", "/sign-in", "/audit?before=x"]
    for path in pages:
        await window.goto(path)
        await window.page.evaluate(OPEN_DETAILS)
        for width in (360, 768, 1280, 1920):
            await window.page.set_viewport_size({"width": width, "height": 900})
            assert await window.page.evaluate(WIDTH) <= width, path
            for scheme in SCHEMES if width in (360, 1280) else ():
                await window.page.emulate_media(color_scheme=scheme)
                assert await window.violations() == [], (path, width, scheme)
    window.errors.clear()  # from the invalid link and position


LONG = f"{'العربية ' * 6}👩🏽‍🚀 {'long' * 12}@department.example.com"
SIP = "sip:a.very.long.user.name+extension@gateway.region-1.voip.example.com"


async def fill_with_difficult_data(harness: Harness) -> Sequence[str]:
    """Fill the console with long names, SIP addresses and many entries. Return its pages."""
    approval = await harness.request_call(LONG)
    async with sign_in(harness.console) as ann:
        await ann.decide(f"/approvals/{approval}", decision="approve")
    sid = await harness.place_call(LONG)
    (call,) = harness.emulator.calls.all()
    copies = [f"CA{number:032x}" for number in range(60)]
    for each in copies:
        harness.emulator.calls.add(call._replace(sid=each, from_=SIP, caller_name=LONG))
    long_request = await harness.request_call(LONG, to=SIP)
    insert_requests(harness, 60)
    return [
        "/approvals",
        f"/approvals/{long_request}",
        "/calls",
        "/calls?by=x",
        f"/calls/{sid}",
        f"/calls/{copies[0]}",
        f"/calls/{sid}/hang-up",
        "/audit",
        "/overview",
        "/policy",
        "/operators",
    ]


with_operator = pytest.mark.parametrize(
    "rules", ['place = "operator"\nhang_up = "operator"'], ids=[""]
)


@with_operator
async def test_long_names_sip_addresses_and_many_entries_fit_at_every_width(
    chromium: Browser, harness: Harness
) -> None:
    pages = await fill_with_difficult_data(harness)
    async with open_window(chromium, harness.console.link(LONG)) as window:
        await window.page.clock.set_fixed_time(harness.clock.now)
        for path in pages:
            await window.goto(path)
            for width in (360, 768, 1280, 1920):
                await window.page.set_viewport_size({"width": width, "height": 900})
                assert await window.page.evaluate(MISPLACED) == [], (path, width)


@pytest.mark.needs(tool="chromium")
@with_operator
@pytest.mark.parametrize(
    ("flags", "size", "scale"),
    [
        pytest.param([], {"width": 640, "height": 450}, 2, id="zoom"),
        pytest.param(
            ["--blink-settings=defaultFontSize=32"], {"width": 1280, "height": 900}, 1, id="text"
        ),
    ],
)
async def test_every_page_fits_at_200_percent(
    harness: Harness, flags: list[str], size: ViewportSize, scale: int
) -> None:
    pages = await fill_with_difficult_data(harness)
    async with (
        open_async_browser(*flags) as browser,
        open_window(
            browser, harness.console.link(LONG), viewport=size, device_scale_factor=scale
        ) as window,
    ):
        await window.page.clock.set_fixed_time(harness.clock.now)
        for path in pages:
            await window.goto(path)
            await window.page.evaluate(OPEN_DETAILS)
            assert await window.page.evaluate(MISPLACED) == [], path


TOPS = "(links) => links.map((link) => Math.round(link.getBoundingClientRect().top))"


async def test_the_navigation_is_one_row_and_shows_the_operator(
    harness: Harness, window: Window
) -> None:
    await request_call(harness)
    insert_requests(harness, 60)
    navigation = window.page.get_by_label("Main").get_by_role("link")
    for path in ("/approvals", "/overview", "/operators"):
        await window.goto(path)
        for width in (360, 390, 768):
            await window.page.set_viewport_size({"width": width, "height": 800})
            assert len({*await navigation.evaluate_all(TOPS)}) == 1, (path, width)
            assert await window.page.evaluate(FITS, ".account bdi"), (path, width)


FITS = (
    "(selector) => [document.querySelector(selector)].every((e) => e.scrollWidth <= e.clientWidth)"
)
"""Whether an element shows all of its text."""
ROWS = """() => {
  const header = document.querySelector(".calls thead");
  const box = (e) => e.getBoundingClientRect();
  const rows = [...document.querySelectorAll(".calls tbody tr")];
  const cells = (row) => [...row.cells].filter((e) => e.offsetParent);
  const middle = (e) => (box(e).top + box(e).bottom) / 2;
  const lines = (row) =>
    cells(row).map(middle).filter((at, index, all) => !index || at > all[index - 1] + 8).length;
  const left = (row) => cells(row).map((e) => Math.round(box(e).left)).join();
  return {
    hasHeader: header.offsetParent !== null,
    lines: Math.max(...rows.map(lines)),
    columns: new Set(rows.map(left)).size,
  };
}"""
"""Whether the calls have a header, the lines of a call at most, and how many columns differ."""


@with_operator
async def test_calls_are_a_table_and_below_700_pixels_a_list_with_two_lines_per_call(
    chromium: Browser, harness: Harness
) -> None:
    await fill_with_difficult_data(harness)
    async with open_window(chromium, harness.console.link("ann")) as window:
        await window.page.clock.set_fixed_time(harness.clock.now)
        await window.goto("/calls")
        for width in (360, 699, 700, 768, 900, 1100, 1280):
            await window.page.set_viewport_size({"width": width, "height": 900})
            rows, is_table = await window.page.evaluate(ROWS), width >= 700
            assert rows["hasHeader"] == is_table, width
            assert rows["lines"] == (1 if is_table else 2), width
            assert not is_table or rows["columns"] == 1, width


async def test_a_long_queue_scrolls_beside_the_request_that_is_shown(
    harness: Harness, window: Window
) -> None:
    await harness.request_call()
    insert_requests(harness, 60)
    await window.goto("/approvals")
    link = await window.page.locator(".queue li a").last.get_attribute("href")
    await window.goto(f"{link}")
    await expect(window.page.locator(".queue [aria-current]")).to_be_in_viewport()
    await expect(window.page.locator("#headline")).to_be_in_viewport()
    assert await window.page.evaluate("scrollY") == 0


async def test_an_open_audit_log_updates_the_count_without_reading_the_log_again(
    harness: Harness, window: Window
) -> None:
    read = list[str]()
    await window.goto("/audit")
    window.page.on("request", lambda request: read.append(request.url))
    await request_call(harness)
    await window.expect_text("1 pending")
    assert not [url for url in read if url.endswith("/audit")]
    await expect(window.page.locator("nav [aria-current]")).to_have_text("Audit log")


async def test_updates_keep_focus_and_typed_text(harness: Harness, window: Window) -> None:
    await window.expect_text("No pending approval requests.")
    await request_call(harness)
    await window.expect_text("1 pending approval request.")
    await expect(window.page).to_have_title("(1) Approvals · calls-mcp console")
    reason = window.page.get_by_label("Reason for denying")
    await reason.press_sequentially("not at ")
    second = await request_call(harness, time_limit=60)
    await window.expect_text("2 pending approval requests.")
    await window.press("n", "i", "g", "h", "t")
    await expect(reason.first).to_have_value("not at night")
    await window.row(second).focus()
    await deny_as_bob(harness, second)
    await window.expect_text("1 pending approval request.")
    await expect(window.row(second)).to_have_count(0)
    await expect(reason).to_have_value("not at night")


async def test_keys_and_clicks_never_reach_a_request_other_than_the_one_shown(
    harness: Harness, window: Window
) -> None:
    first = await request_call(harness)
    second = await request_call(harness, time_limit=60)
    await window.expect_text("2 pending approval requests.")
    await window.page.get_by_label("Reason for denying").press_sequentially("this is")
    pressed = await window.page.locator("[data-key=a]").bounding_box()
    assert pressed
    await deny_as_bob(harness, first)
    await expect(window.request(first)).to_contain_text("Denied by bob")
    await window.page.mouse.click(pressed["x"] + 5, pressed["y"] + 5)
    await window.press(" ", "n", "o", "t", " ", "a", " ", "g", "o", "o", "d", " ", "Enter")
    await window.expect_text("1 pending approval request.")
    assert harness.console.approvals
    (pending,) = await harness.console.approvals.pending()
    assert pending.identifier == second


async def test_an_outdated_page_shows_a_warning(harness: Harness, window: Window) -> None:
    await window.expect_text("No pending approval requests.")
    other = await window.page.context.new_page()
    await other.goto(window.url)
    await other.get_by_role("button", name="Sign out").click()
    await other.get_by_text("Signed out").wait_for()
    await request_call(harness)
    await window.expect_text("You are signed out")
    await expect(window.page).to_have_title("! Approvals · calls-mcp console")
    window.errors.clear()  # from the status 401


async def test_a_page_with_an_invalid_filter_is_not_outdated(window: Window) -> None:
    for path in ("/audit?since=x", "/calls?status=x"):
        await window.goto(path)
        await window.page.evaluate("refresh()")
        await expect(window.page.locator("#alert")).to_be_hidden()
        await expect(window.page.get_by_role("alert")).to_contain_text(": use ")
    await window.goto("/approvals")
    window.errors.clear()  # from the status 400


async def test_a_page_that_does_not_exist_is_not_outdated(window: Window) -> None:
    await window.goto("/approvals/x")
    await window.expect_text("It may have been deleted")
    await expect(window.page.locator("body")).to_have_attribute("data-topics", "")
    await expect(window.page.locator("#alert")).to_be_hidden()
    window.errors.clear()  # from the status 404


async def test_every_task_works_with_the_keyboard(harness: Harness, window: Window) -> None:
    first = await request_call(harness)
    second = await request_call(harness, time_limit=60)
    await window.expect_text("2 pending approval requests.")
    await window.goto("/approvals")
    order = list[str]()
    for _ in range(18):
        await window.press("Tab")
        order.append(await window.focused())
    links = ["Approvals 2", "Calls", "Audit log", "Overview", "Policy", "Operators"]
    queue = ["Call +1 500 555 0205"] * 2
    reason = "Reason for denying (optional, shown to the agent)"
    common = ["Not needed", "Not now", "Wrong number", "Ask me first"]
    request = ["Call now", reason, "Deny", *common, "Exact arguments and TwiML"]
    assert order == ["Skip to content", *links, "Sign out", "Notify me", *queue, *request][:18]
    await window.goto("/approvals")
    await window.press("j")
    await window.page.wait_for_url(f"**/approvals/{second}")
    await window.press("k")
    await window.page.wait_for_url(f"**/approvals/{first}")
    await window.press("j")
    await window.page.wait_for_url(f"**/approvals/{second}")
    await window.press("?", "a", "?", "a", "Enter")
    await window.expect_text("Approved by ann")
    await window.page.wait_for_url(f"**/approvals/{first}?decided={second}")
    await window.press("d", "n", "o", "Enter")
    await window.expect_text("Reason: no")
    await window.goto(f"/approvals/{second}")
    assert await retry(harness, time_limit=60) == "done"
    await window.expect_text("Done. View the call")
    await window.goto(f"/approvals/{first}")
    await window.expect_text("The agent sees this when it retries")
    assert await retry(harness) == "declined"
    await window.expect_text("The operator denied this: no")


@with_operator
async def test_everything_works_without_javascript(chromium: Browser, harness: Harness) -> None:
    link = harness.console.link("ann")
    async with open_window(chromium, link, java_script_enabled=False) as window:
        await request_call(harness)
        await window.goto("/approvals")
        await expect(window.button("Notify me")).to_be_hidden()
        await window.approve()
        assert await retry(harness) == "done"
        await request_call(harness, time_limit=60)
        await window.goto("/approvals")
        await window.deny("too short")
        await window.expect_text("Reason: too short")
        harness.clock.advance(20)
        await window.goto("/calls")
        await window.page.locator("#live").get_by_role("link").click()
        await window.page.get_by_role("link", name="Hang up").click()
        assert len(harness.changes) == 1
        await window.decide("Hang up")
        await window.expect_text("completed")
        assert len(harness.changes) == 2


async def expect_row(harness: Harness, row: Locator, text: str) -> None:
    """Let time pass until a row contains this text."""
    for _ in range(30):
        harness.clock.advance(5)
        with suppress(AssertionError):
            await expect(row).to_contain_text(text, timeout=500)
            return
    await expect(row).to_contain_text(text)


@with_rules
async def test_live_calls_are_updated(harness: Harness, window: Window) -> None:
    await window.goto("/calls")
    await window.expect_text("No live calls")
    sid = await harness.place_call()
    live, ended = window.page.locator(f"#live-{sid}"), window.page.locator(f"#ended-{sid}")
    await expect_row(harness, live, "In progress")
    await live.get_by_role("link").focus()
    another = await harness.place_call()
    await expect_row(harness, window.page.locator(f"#live-{another}"), "In progress")
    await expect(live.get_by_role("link")).to_be_focused()
    harness.clock.advance(3600)
    await expect_row(harness, ended, "Completed")
    await expect(live).to_have_count(0)


@with_rules
async def test_every_page_shows_untrusted_text_as_plain_text(
    harness: Harness, window: Window
) -> None:
    sid = await harness.place_call(HOSTILE)
    (call,) = harness.emulator.calls.all()
    inbound = call._replace(sid="CA" + "1" * 32, direction="inbound", caller_name=HOSTILE)
    harness.emulator.calls.add(inbound)
    approval, call_page = f"/approvals/{await request_hang_up(harness, sid)}", f"/calls/{sid}"
    for path in ("/approvals", approval, call_page, f"/calls/{inbound.sid}", "/calls", "/audit"):
        await window.goto(path)
        await window.expect_text(AS_SHOWN)
    await window.goto(approval)
    await window.deny(HOSTILE)
    async with harness.connect(name=HOSTILE) as agent:
        outcome = await agent.call("update_call", sid=sid, status="completed")
    assert outcome["outcome"] == "declined"
    searches = f"/audit?text={AS_SHOWN}", f"/audit?principal={AS_SHOWN}"
    for path in (approval, "/audit", call_page, *searches, "/overview"):
        await window.goto(path)
        assert await window.page.locator("main img, main script").count() == 0
        assert not await window.page.evaluate("'hacked' in window")
        text = await window.page.locator("main").inner_text()
        assert AS_SHOWN in text or path in (searches[1], "/overview")
        assert not {*text} & {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}


FORM = """<body>
<form method="post" action="{url}/approvals/{approval}">
  <button name="decision" value="approve">Win a prize</button>
</form>
<iframe src="{url}/approvals"></iframe>
"""
READ = "(url) => fetch(url, {credentials: 'include'}).then((r) => r.text()).catch(() => 'refused')"


@pytest.mark.parametrize(
    ("host", "is_same_site"),
    [
        pytest.param("127.0.0.1", True, id="on the same site, with the cookie"),
        pytest.param("localhost", False, id="on another site"),
    ],
)
async def test_another_origin_can_neither_decide_nor_frame_nor_read(
    harness: Harness, window: Window, host: str, *, is_same_site: bool
) -> None:
    approval = await request_call(harness)
    await window.goto(f"/approvals/{approval}")
    form = FORM.format(url=window.url, approval=approval)
    async with Upstream(answer(200, form)) as other:
        tab = await window.page.context.new_page()
        await tab.goto(other.base_url.replace("127.0.0.1", host))
        (framed,) = tab.main_frame.child_frames
        await framed.wait_for_load_state()
        assert framed.url == "chrome-error://chromewebdata/"
        assert await tab.evaluate(READ, window.url) == "refused"
        async with tab.expect_response(f"**/approvals/{approval}") as answering:
            await tab.get_by_role("button", name="Win a prize").click()
        response = await answering.value
        assert response.status == 403
        assert ("cookie" in await response.request.all_headers()) == is_same_site
    await window.goto("/approvals")
    await window.expect_text("1 pending approval request.")
    assert '"approved"' not in "".join(lines_in(harness.database))


RECORDER = """
Object.defineProperty(document, "hidden", {get: () => window.away ?? false});
window.notifications = [];
window.requests = 0;
window.Notification = class {
  static permission = "default";
  static requestPermission() {
    requests += 1;
    this.permission = "granted";
    return Promise.resolve();
  }
  constructor(title, options) {
    notifications.push([title, options.body ?? ""]);
    document.documentElement.dataset.notifications = notifications.length;
  }
  addEventListener() {}
};
"""


async def test_with_permission_a_hidden_tab_notifies(harness: Harness, window: Window) -> None:
    page = window.page
    await page.add_init_script(RECORDER)
    await window.goto("/approvals")
    await page.evaluate("away = true")
    first = await request_call(harness, HOSTILE)
    await window.expect_text("1 pending approval request.")
    assert await page.evaluate("[requests, notifications]") == [0, []]
    await window.button("Notify me").click()
    await expect(window.button("Notify me")).to_be_hidden()
    await request_call(harness, HOSTILE, time_limit=60)
    await expect(page.locator("html")).to_have_attribute("data-notifications", "1")
    await page.evaluate("away = false")
    await request_call(harness, HOSTILE, time_limit=70)
    await window.expect_text("3 pending approval requests.")
    await page.evaluate("away = true")
    await deny_as_bob(harness, first)
    await window.expect_text("2 pending approval requests.")
    assert await page.evaluate("notifications") == [["2 pending approval requests", ""]]


@with_rules
async def test_every_page_is_in_the_time_zone_of_the_browser(
    chromium: Browser, harness: Harness
) -> None:
    link, sid = harness.console.link("ann"), await harness.place_call()  # at 22:13 UTC
    async with open_window(chromium, link, timezone_id="Africa/Cairo", locale="en-GB") as window:
        await window.goto("/overview")
        await window.expect_text("Calls by hour (Africa/Cairo)")
        for path in ("/calls", "/audit"):
            await window.goto(f"{path}?since=2023-11-15")
            await window.expect_text("15 Nov 2023, 00:13")
            await expect(window.page.get_by_label("From date", exact=True)).to_be_visible()
        await window.goto(f"/calls/{sid}")
        await expect(window.page.locator(".timeline .day")).to_have_text(["15 Nov 2023"])


@with_rules
async def test_the_time_since_a_live_call_was_dialed_runs(harness: Harness, window: Window) -> None:
    sid = await harness.place_call()
    await window.page.clock.install(time=harness.clock.now)
    for path in ("/calls", f"/calls/{sid}"):
        await window.goto(path)
        await window.page.clock.pause_at(harness.clock.now + 50)
        await window.expect_text("1 min 9 s ago")
