"""Calls on the console's pages."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from calls_mcp.console import Address, open_console
from calls_mcp.settings import load_settings
from tests.console.desk import Browser, Desk, open_desk, visible
from tests.records import records_in
from tests.rig import placing

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with open_desk(tmp_path, 'place = "never"') as desk:
        yield desk


async def test_live_calls_are_on_top(desk: Desk, browser: Browser) -> None:
    assert "No call is live" in visible(await browser.read("/calls"))
    sid = await desk.place()
    page = await browser.read("/calls")
    live, _, ended = page.partition("<h2>Ended</h2>")
    assert sid in live
    assert "in-progress" in live
    assert sid not in ended


async def test_however_many_look_the_api_is_asked_once(desk: Desk, browser: Browser) -> None:
    await desk.place()
    await browser.read("/calls")
    before = len(desk.rig.reads)
    for _ in range(50):
        await browser.read("/calls")
    assert len(desk.rig.reads) == before
    desk.rig.clock.advance(5)
    await browser.read("/calls")
    assert len(desk.rig.reads) == 2 * before


async def test_fifty_open_tabs_cost_the_api_what_one_does(tmp_path: Path) -> None:
    assert await cost(tmp_path, 50) == await cost(tmp_path, 1) > 0


async def cost(folder: Path, tabs: int) -> int:
    """How many requests these tabs cause, before and after another call is placed."""
    async with (
        open_desk(folder, 'place = "never"') as desk,
        desk.operator() as browser,
        AsyncExitStack() as stack,
    ):
        sid = await desk.place()
        before = len(desk.rig.reads)
        opened = [await stack.enter_async_context(browser.news("calls")) for _ in range(tabs)]
        await refresh_all(browser, opened, sid)
        await desk.place()
        await refresh_all(browser, opened, sid)
        return len(desk.rig.reads) - before


async def refresh_all(browser: Browser, tabs: Sequence[AsyncIterator[str]], sid: str) -> None:
    """Have all tabs, once they are told of something new, load what they show.

    The first goes from the list to the call; of the others each is at either.
    """
    pages = "/calls", f"/calls/{sid}"

    async def refresh(tab: AsyncIterator[str], number: int) -> None:
        await anext(tab)
        for path in (pages[number % 2],) if number else pages:
            await browser.read(path)

    async with anyio.create_task_group() as tasks:
        for number, tab in enumerate(tabs):
            tasks.start_soon(refresh, tab, number)


async def test_a_call_tells_its_story(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk, desk.operator("ann") as browser:
        async with desk.rig.connect() as agent:
            asked = await agent.call("create_call", **placing())
            approval = asked["confirmation"]["approval"]
            await browser.submit("/approvals", f"/approvals/{approval}", decision="approve")
            sid = (await agent.call("create_call", **placing()))["call"]["sid"]
        desk.rig.clock.advance(20)
        told = visible(await browser.read(f"/calls/{sid}"))
    steps = [
        "Place by tester: asked for",
        "Place for tester: approved",
        "decided by ann",
        "Sent to the API for tester: place",
        "The API's answer: done",
        "HTTP status 201",
    ]
    places = [told.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    assert "The API says: created" in told
    assert "Seen by this console: in-progress" in told


async def test_without_credentials_the_record_tells_the_story(desk: Desk) -> None:
    sid = await desk.place()
    settings = load_settings({"calls_mcp_audit_database": desk.record})
    async with (
        open_console(settings, Address(port=0)) as alone,
        Desk(alone, desk.rig, desk.record).operator() as browser,
    ):
        told = visible(await browser.read(f"/calls/{sid}"))
        assert (await browser.get("/calls/CA" + "0" * 32)).status_code == 404
        assert "Missing credentials" in visible(await browser.read("/calls"))
        assert "Missing credentials" in visible(await browser.read("/overview"))
    assert "Sent to the API for tester: place" in told
    assert "Missing credentials" in told


@pytest.mark.parametrize("need", ["never", "confirm", "require_human", "operator"])
async def test_hanging_up_asks_first_and_takes_the_path_of_the_tool(
    need: str, tmp_path: Path
) -> None:
    async with open_desk(tmp_path, f'place = "never"\nhang_up = "{need}"') as desk:
        sid = await desk.place()
        async with desk.operator("ann") as browser:
            path = f"/calls/{sid}/hang-up"
            question = visible(await browser.read(path))
            assert "can't be undone" in question
            assert len(desk.rig.changes) == 1
            done = await browser.submit(path, path)
            assert done.headers["location"] == f"/calls/{sid}"
            assert "completed" in visible(await browser.read(f"/calls/{sid}"))
        assert len(desk.rig.changes) == 2
        recorded = records_in(desk.record)
    (begun,) = [r for r in recorded if r["phase"] == "before" and r["action"] == "hang_up"]
    assert begun["principal"] == "console: ann"
    assert begun["sid"] == sid


async def test_what_the_policy_refuses_no_button_does(tmp_path: Path) -> None:
    async with open_desk(tmp_path, 'place = "never"\nhang_up = "deny"') as desk:
        sid = await desk.place()
        async with desk.operator() as browser:
            path = f"/calls/{sid}/hang-up"
            refused = await browser.submit(path, path)
        assert refused.status_code == 409
        assert "confirm.hang_up" in visible(refused.text)
        assert len(desk.rig.changes) == 1


async def test_hanging_up_twice_is_told(desk: Desk, browser: Browser) -> None:
    sid = await desk.place()
    path = f"/calls/{sid}/hang-up"
    assert (await browser.submit(path, path)).status_code == 303
    again = await browser.submit(path, path)
    assert again.status_code == 409
    assert len(desk.rig.changes) == 2


async def test_a_form_of_another_session_hangs_nothing_up(desk: Desk, browser: Browser) -> None:
    sid = await desk.place()
    assert (await browser.post(f"/calls/{sid}/hang-up", csrf="")).status_code == 403
    assert len(desk.rig.changes) == 1


@pytest.mark.parametrize("sid", ["CA" + "0" * 32, "nothing", "CA%3Cscript%3E"])
async def test_a_call_that_is_not_there_is_told(browser: Browser, sid: str) -> None:
    missing = await browser.get(f"/calls/{sid}")
    assert missing.status_code == 404
    assert "<script>" not in missing.text
