"""The console in real Chromium."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Browser, Locator, expect

from tests.console.desk import Desk, open_desk
from tests.console.window import Window, open_window
from tests.records import lines_in
from tests.rig import placing
from tests.upstream import Upstream, answer

pytestmark = pytest.mark.anyio

HOSTILE = "<img src=x onerror=hacked=1><script>hacked=1</script>\u202e6000555\u202c"
AS_SHOWN = "<img src=x onerror=hacked=1><script>hacked=1</script>"
MIXED = 'place = "never"\nhang_up = "operator"'


@asynccontextmanager
async def open_scene(
    chromium: Browser, folder: Path, rules: str = 'place = "operator"', **options: object
) -> AsyncGenerator[tuple[Desk, Window]]:
    """A desk, and Ann's window."""
    async with (
        open_desk(folder, rules) as desk,
        open_window(chromium, desk.console.link("ann"), **options) as window,
    ):
        yield desk, window


async def ask(desk: Desk, name: str = "tester", **arguments: object) -> str:
    """Have an agent ask for a call, after those that were asked for before."""
    desk.rig.clock.advance(1)
    return await desk.ask(name, **arguments)


async def repeat(desk: Desk, **arguments: object) -> str:
    """Have it call again; what comes of it."""
    async with desk.rig.connect() as agent:
        told: str = (await agent.call("create_call", **placing(**arguments)))["outcome"]
    return told


async def ask_to_hang_up(desk: Desk, sid: str, name: str = "tester") -> str:
    async with desk.rig.connect(name=name) as agent:
        asked = await agent.call("update_call", sid=sid, status="completed")
    approval: str = asked["confirmation"]["approval"]
    return approval


SCHEMES: Sequence[Literal["light", "dark"]] = ("light", "dark")
OPEN = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"
WIDTH = "document.documentElement.scrollWidth"


@pytest.mark.needs(tool="axe-core")
async def test_everybody_can_read_every_page_by_day_and_night_wide_and_narrow(
    chromium: Browser, tmp_path: Path
) -> None:
    async with open_scene(chromium, tmp_path, MIXED) as (desk, window):
        sid = await desk.place(HOSTILE)
        approval = await ask_to_hang_up(desk, sid, HOSTILE)
        pages = ["/approvals", "/audit?check=now", "/policy", "/calls", "/overview", "/invitations"]
        pages += [f"/approvals/{approval}", f"/calls/{sid}", f"/calls/{sid}/hang-up"]
        pages += ["/sign-in?link=x", "/sign-in", "/audit?before=x"]
        for path in pages:
            await window.go(path)
            await window.page.evaluate(OPEN)
            for width in (1440, 360):
                await window.page.set_viewport_size({"width": width, "height": 900})
                for scheme in SCHEMES:
                    await window.page.emulate_media(color_scheme=scheme)
                    assert await window.violations() == [], (path, width, scheme)
                assert await window.page.evaluate(WIDTH) <= width, path
        window.complaints.clear()  # of the page that is refused


async def test_news_leave_focus_and_typing_as_they_are(chromium: Browser, tmp_path: Path) -> None:
    async with open_scene(chromium, tmp_path) as (desk, window):
        page = window.page
        await window.sees("Nothing waits")
        await ask(desk)
        await window.sees("1 change waits")
        await expect(page).to_have_title("(1) Waiting · calls-mcp console")
        reason = page.get_by_label("Why not")
        await reason.press_sequentially("not at ")
        second = await ask(desk, time_limit=60)
        await window.sees("2 changes wait")
        await window.press("n", "i", "g", "h", "t")
        await expect(reason.first).to_have_value("not at night")
        await page.locator(f"#case-{second}").focus()
        async with desk.operator("bob") as bob:
            await bob.submit("/approvals", f"/approvals/{second}", decision="deny")
        await window.sees("1 change waits")
        await expect(page.locator(f"#case-{second}")).to_contain_text(
            "decided elsewhere, or lapsed"
        )
        await expect(reason.first).to_have_value("not at night")


async def test_a_key_or_a_click_never_meets_another_card_than_was_meant(
    chromium: Browser, tmp_path: Path
) -> None:
    async with open_scene(chromium, tmp_path) as (desk, window), desk.operator("bob") as bob:
        first = await ask(desk)
        desk.rig.clock.advance(1)
        await ask(desk, time_limit=60)
        await window.sees("2 changes wait")
        await window.page.get_by_label("Why not").first.press_sequentially("this is")
        pressed = await window.page.locator("[data-key=a]").first.bounding_box()
        assert pressed
        await bob.submit("/approvals", f"/approvals/{first}", decision="deny")
        await window.sees("1 change waits")
        await window.page.mouse.click(pressed["x"] + 5, pressed["y"] + 5)
        await window.press(" ", "n", "o", "t", " ", "a", " ", "g", "o", "o", "d", " ", "Enter")
        await window.sees("1 change waits")
        assert desk.console.house.approvals
        (waiting,) = await desk.console.house.approvals.pending()
        assert waiting.identifier != first


async def test_a_page_that_is_out_of_date_says_so(chromium: Browser, tmp_path: Path) -> None:
    async with open_scene(chromium, tmp_path) as (desk, window):
        await window.sees("Nothing waits")
        other = await window.page.context.new_page()
        await other.goto(window.url)
        await other.get_by_role("button", name="Leave").click()
        await other.get_by_text("You have left").wait_for()
        await ask(desk)
        await window.sees("You are not in any more")
        await expect(window.page).to_have_title("! Waiting · calls-mcp console")
        window.complaints.clear()  # of the status 401


async def test_all_of_it_is_done_by_keys(chromium: Browser, tmp_path: Path) -> None:
    async with open_scene(chromium, tmp_path) as (desk, window):
        await ask(desk)
        await ask(desk, time_limit=60)
        await window.sees("2 changes wait")
        await window.go("/approvals")
        order = list[str]()
        for _ in range(14):
            await window.press("Tab")
            order.append(await window.focused())
        rooms = ["Waiting", "Calls", "Audit", "Overview", "Rules", "People"]
        card = ["card", "Place a call", "Approve", "Why not (the agent is told)", "Deny"]
        assert order == ["Skip to the content", *rooms, "Leave", "Notify me", *card]
        await window.go("/approvals")
        await window.press("Tab", "Enter", "Tab", "Tab", "j", "k", "j", "a", "Enter")
        await window.sees("Approved by ann")
        await window.go("/approvals")
        await window.press("Tab", "Enter", "Tab", "Tab", "d", "n", "o", "Enter")
        await window.sees("Reason: no")
        assert await repeat(desk, time_limit=60) == "done"
        await window.sees("once it calls the same again")
        assert await repeat(desk) == "declined"
        await window.sees("The operator said no: no")


async def test_without_scripts_all_of_it_works(chromium: Browser, tmp_path: Path) -> None:
    rules = 'place = "operator"\nhang_up = "operator"'
    async with open_scene(chromium, tmp_path, rules, java_script_enabled=False) as (desk, window):
        await ask(desk)
        await window.go("/approvals")
        await expect(window.page.get_by_role("button", name="Notify me")).to_be_hidden()
        await window.approve()
        await window.sees("Approved by ann")
        assert await repeat(desk) == "done"
        await ask(desk, time_limit=60)
        await window.go("/approvals")
        await window.deny("too short")
        await window.sees("Reason: too short")
        desk.rig.clock.advance(20)
        await window.go("/calls")
        await window.page.locator("#live").get_by_role("link").click()
        await window.page.get_by_role("link", name="Hang up").click()
        assert len(desk.rig.changes) == 1
        await window.page.get_by_role("button", name="Hang up now").click()
        await window.sees("completed")
        assert len(desk.rig.changes) == 2


async def comes(desk: Desk, row: Locator, text: str) -> None:
    """Let time pass, look by look, until a row has this text."""
    for _ in range(30):
        desk.rig.clock.advance(5)
        with suppress(AssertionError):
            await expect(row).to_contain_text(text, timeout=500)
            return
    await expect(row).to_contain_text(text)


async def test_live_calls_change_by_themselves(chromium: Browser, tmp_path: Path) -> None:
    async with open_scene(chromium, tmp_path, 'place = "never"') as (desk, window):
        await window.go("/calls")
        await window.sees("No call is live")
        sid = await desk.place()
        live, ended = window.page.locator(f"#live-{sid}"), window.page.locator(f"#ended-{sid}")
        await comes(desk, live, "in-progress")
        await live.get_by_role("link").focus()
        another = await desk.place()
        await comes(desk, window.page.locator(f"#live-{another}"), "in-progress")
        await expect(live.get_by_role("link")).to_be_focused()
        desk.rig.clock.advance(3600)
        await comes(desk, ended, "completed")
        await expect(live).to_have_count(0)


async def test_what_strangers_wrote_is_text_on_every_page(
    chromium: Browser, tmp_path: Path
) -> None:
    async with open_scene(chromium, tmp_path, MIXED) as (desk, window):
        sid = await desk.place(HOSTILE)
        (call,) = desk.rig.emulator.calls.all()
        stranger = call._replace(sid="CA" + "1" * 32, direction="inbound", caller_name=HOSTILE)
        desk.rig.emulator.calls.add(stranger)
        approval = await ask_to_hang_up(desk, sid, HOSTILE)
        case, story = f"/approvals/{approval}", f"/calls/{sid}"
        for path in ("/approvals", case, story, f"/calls/{stranger.sid}", "/calls", "/audit"):
            await window.go(path)
            await window.sees(AS_SHOWN)
        await window.go(case)
        await window.deny(HOSTILE)
        async with desk.rig.connect(name=HOSTILE) as agent:
            told = await agent.call("update_call", sid=sid, status="completed")
        assert told["outcome"] == "declined"
        searches = f"/audit?text={AS_SHOWN}", f"/audit?principal={AS_SHOWN}"
        for path in (case, "/audit", story, *searches, "/overview"):
            await window.go(path)
            assert await window.page.locator("main img, main script").count() == 0
            assert not await window.page.evaluate("'hacked' in window")
            text = await window.page.locator("main").inner_text()
            assert AS_SHOWN in text or path in (searches[1], "/overview")
            assert not {*text} & {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}


FORM = """<body>
<form method="post" action="{url}/approvals/{approval}">
  <input name="csrf" value="{csrf}"><button name="decision" value="approve">Win a prize</button>
</form>
<iframe src="{url}/"></iframe>
"""
READ = "(url) => fetch(url, {credentials: 'include'}).then((r) => r.text()).catch(() => 'refused')"


@pytest.mark.parametrize(
    ("host", "is_same_site"),
    [
        pytest.param("127.0.0.1", True, id="beside it, where the cookie comes along"),
        pytest.param("localhost", False, id="elsewhere"),
    ],
)
async def test_another_origin_can_neither_decide_nor_frame_nor_read(
    chromium: Browser, tmp_path: Path, host: str, *, is_same_site: bool
) -> None:
    async with open_scene(chromium, tmp_path) as (desk, window):
        approval = await ask(desk)
        await window.go(f"/approvals/{approval}")
        csrf = await window.page.locator("[name=csrf]").first.input_value()
        form = FORM.format(url=window.url, approval=approval, csrf=csrf)
        async with Upstream(answer(200, form)) as elsewhere:
            tab = await window.page.context.new_page()
            await tab.goto(elsewhere.base_url.replace("127.0.0.1", host))
            (framed,) = tab.main_frame.child_frames
            await framed.wait_for_load_state()
            assert framed.url == "chrome-error://chromewebdata/"
            assert await tab.evaluate(READ, window.url) == "refused"
            async with tab.expect_response(f"**/approvals/{approval}") as answering:
                await tab.get_by_role("button", name="Win a prize").click()
            response = await answering.value
            assert response.status == 403
            assert ("cookie" in await response.request.all_headers()) == is_same_site
        await window.go("/approvals")
        await window.sees("1 change waits")
    assert '"approved"' not in "".join(lines_in(desk.record))


RECORDER = """
Object.defineProperty(document, "hidden", {get: () => window.away ?? false});
window.told = [];
window.asked = 0;
window.Notification = class {
  static permission = "default";
  static requestPermission() { asked += 1; this.permission = "granted"; return Promise.resolve(); }
  constructor(title, options) {
    told.push([title, options.body ?? ""]);
    document.documentElement.dataset.told = told.length;
  }
  addEventListener() {}
};
"""


async def test_whoever_allows_it_is_notified_while_the_tab_is_hidden(
    chromium: Browser, tmp_path: Path
) -> None:
    async with open_scene(chromium, tmp_path) as (desk, window):
        page = window.page
        await page.add_init_script(RECORDER)
        await window.go("/approvals")
        await page.evaluate("away = true")
        first = await ask(desk, HOSTILE)
        await window.sees("1 change waits")
        assert await page.evaluate("[asked, told]") == [0, []]
        await page.get_by_role("button", name="Notify me").click()
        await expect(page.get_by_role("button", name="Notify me")).to_be_hidden()
        await ask(desk, HOSTILE, time_limit=60)
        await expect(page.locator("html")).to_have_attribute("data-told", "1")
        await page.evaluate("away = false")
        await ask(desk, HOSTILE, time_limit=70)
        await window.sees("3 changes wait")
        await page.evaluate("away = true")
        async with desk.operator("bob") as bob:
            await bob.submit("/approvals", f"/approvals/{first}", decision="deny")
        await window.sees("2 changes wait")
        assert await page.evaluate("told") == [["2 changes wait for your decision", ""]]
