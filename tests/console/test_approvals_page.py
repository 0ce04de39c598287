"""What waits, and its decision."""

import re
import sqlite3
from contextlib import closing
from html import unescape
from pathlib import Path
from secrets import token_hex

import anyio
import pytest

from calls_mcp.console import Address, open_console
from calls_mcp.console.calls_page import Calls
from calls_mcp.settings import load_settings
from calls_mcp.storage import ApprovalRequest, Binding, OperatorDecision, models
from calls_mcp.storage.models import as_json
from tests.console.desk import Browser, Desk, open_desk, visible
from tests.records import records_in
from tests.rig import CALLER, placing

pytestmark = pytest.mark.anyio

SCRIPT = "<script>alert(1)</script>"
BIDI = "\u202eevil\u202c"


async def decide(browser: Browser, approval: str, decision: str, reason: str = "") -> str:
    """Press a button; where that leads, or what it says."""
    response = await browser.submit(
        "/approvals", f"/approvals/{approval}", decision=decision, reason=reason
    )
    assert response.status_code in (303, 409), response.text
    return response.headers.get("location") or visible(response.text)


async def test_what_waits_is_told_in_plain_words(desk: Desk, browser: Browser) -> None:
    assert "Nothing waits" in visible(await browser.read("/approvals"))
    approval = await desk.ask()
    desk.rig.clock.advance(60)
    page = await browser.read("/approvals")
    told = visible(page)
    assert "(1) Waiting" in told
    assert "1 change waits" in told
    assert approval in told
    assert "Place a call to" in told
    assert CALLER in told
    assert "By client tester 1" in told
    assert "Asked 60 s ago" in told
    assert "Left 14 min" in told
    assert "confirm.place" in told


async def test_what_is_approved_runs_once_it_is_called_again(desk: Desk, browser: Browser) -> None:
    approval = await desk.ask()
    page = await browser.read(case := await decide(browser, approval, "approve"))
    assert "Approved by ann" in visible(page)
    assert "It is carried out once it calls the same again." in visible(page)
    assert "Nothing waits" in visible(await browser.read("/approvals"))
    assert desk.rig.changes == []
    async with desk.rig.connect() as agent:
        done = await agent.call("create_call", **placing())
    assert done["outcome"] == "done"
    page = await browser.read(case)
    assert "It was carried out: the call and its story." in visible(page)
    assert f'href="/calls/{done["call"]["sid"]}"' in page
    assert len(desk.rig.changes) == 1
    assert "ann" in {each.get("decided_by") for each in records_in(desk.record)}


async def test_a_denial_reaches_the_agent_with_its_reason(desk: Desk, browser: Browser) -> None:
    approval = await desk.ask()
    page = await browser.read(await decide(browser, approval, "deny", "not at night"))
    assert "Denied by ann" in visible(page)
    assert "not at night" in visible(page)
    async with desk.rig.connect() as agent:
        outcome = await agent.call("create_call", **placing())
    assert outcome["outcome"] == "declined"
    assert "not at night" in outcome["reason"]
    assert desk.rig.changes == []


async def test_of_two_operators_the_second_is_told_what_stands(desk: Desk) -> None:
    approval = await desk.ask()
    async with desk.operator("ann") as ann, desk.operator("bob") as bob:
        shown = await bob.csrf()
        await decide(ann, approval, "deny", "no")
        late = await bob.post(f"/approvals/{approval}", csrf=shown, decision="approve")
    assert late.status_code == 409
    assert "It was denied before, by ann. That stands" in visible(late.text)


async def test_of_two_decisions_at_once_one_counts(desk: Desk) -> None:
    approval = await desk.ask()
    statuses: list[int] = []

    async def press(browser: Browser, decision: str) -> None:
        response = await browser.submit("/approvals", f"/approvals/{approval}", decision=decision)
        statuses.append(response.status_code)

    async with desk.operator("ann") as ann, desk.operator("bob") as bob:
        await ann.csrf()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(press, ann, "approve")
            tasks.start_soon(press, bob, "approve")
    assert sorted(statuses) == [303, 409]


async def test_nobody_decides_about_what_has_lapsed(desk: Desk, browser: Browser) -> None:
    approval = await desk.ask()
    csrf = await browser.csrf()
    desk.rig.clock.advance(900)
    assert "Nothing waits" in visible(await browser.read("/approvals"))
    late = await browser.post(f"/approvals/{approval}", csrf=csrf, decision="approve")
    page = await browser.read(f"/approvals/{approval}")
    assert late.status_code == 409
    for text in (late.text, page):
        assert "It has lapsed" in visible(text)
        assert 'value="approve"' not in text


@pytest.mark.parametrize("decision", ["", "approved", "APPROVE"])
async def test_only_the_two_words_decide(desk: Desk, browser: Browser, decision: str) -> None:
    approval = await desk.ask()
    page = f"/approvals/{approval}"
    assert (await browser.submit(page, page, decision=decision)).status_code == 400
    assert "1 change waits" in visible(await browser.read("/approvals"))


async def test_a_stolen_id_is_nothing_without_a_session(desk: Desk, browser: Browser) -> None:
    approval = await desk.ask()
    async with desk.stranger() as thief:
        answer = await thief.post(f"/approvals/{approval}", decision="approve", csrf="")
        assert answer.status_code == 401
        assert approval not in answer.text
    refused = await browser.post(f"/approvals/{approval}", decision="approve", csrf="")
    assert refused.status_code == 403
    assert "1 change waits" in visible(await browser.read("/approvals"))


async def test_an_id_that_is_not_there_is_told(browser: Browser) -> None:
    missing = await browser.get("/approvals/%3Cscript%3E")
    assert missing.status_code == 404
    assert "no such approval" in missing.text
    assert "<script>" not in missing.text


async def test_texts_of_strangers_are_shown_as_texts(desk: Desk) -> None:
    approval = await desk.ask(f"{SCRIPT}{BIDI}", twiml=f"<Response><Say>{SCRIPT}</Say></Response>")
    async with desk.operator(f"ann {SCRIPT}") as browser:
        page = await browser.read("/approvals")
        case = await browser.read(await decide(browser, approval, "deny", f"{SCRIPT}{BIDI} \"'&"))
    for text in (page, case):
        assert SCRIPT not in text
        assert "&lt;script&gt;" in text
        assert not re.search("[\\u202a-\\u202e\\u2066-\\u2069]", text)


async def test_the_page_has_no_script_or_style_of_its_own(desk: Desk, browser: Browser) -> None:
    await desk.ask()
    page = await browser.read("/approvals")
    assert (await browser.get("/static/console.js")).status_code == 200
    assert (await browser.get("/static/console.css")).status_code == 200
    assert re.findall("<script[^>]*>", page) == ['<script src="/static/console.js" defer>']
    assert not re.search(r"<style|style=|\son\w+=|https?://(?!example)", page)


async def test_an_open_page_is_told_what_comes_and_goes(desk: Desk, browser: Browser) -> None:
    async with browser.news("approvals") as news:
        first = await anext(news)
        approval = await desk.ask()
        assert await anext(news) != first
        await decide(browser, approval, "deny")
        assert await anext(news) == first


async def test_an_api_that_does_not_answer_delays_no_news_of_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: Calls) -> str:
        await anyio.sleep_forever()
        return ""

    monkeypatch.setattr(Calls, "mark", hang)
    async with (
        open_desk(tmp_path) as desk,
        desk.operator() as browser,
        browser.news("calls"),
        browser.news("approvals") as news,
    ):
        first = await anext(news)
        await desk.ask()
        assert await anext(news) != first


async def test_whoever_has_left_is_told_no_more(desk: Desk, browser: Browser) -> None:
    async with browser.news("approvals") as news:
        await anext(news)
        await browser.submit("/approvals", "/sign-out")
        await desk.ask()
        assert [each async for each in news] == []


async def test_a_console_without_a_shared_store_says_so(tmp_path: Path) -> None:
    settings = load_settings({"calls_mcp_state_url": "memory:"})
    async with open_console(settings, Address(port=0)) as console:
        desk = Desk(console, None, tmp_path)  # pyright: ignore[reportArgumentType]  # no server
        async with desk.operator() as browser:
            assert "CALLS_MCP_STATE_URL is memory:" in visible(await browser.read("/approvals"))


async def test_all_that_waits_can_be_reached_however_much_is_decided_since(
    desk: Desk, browser: Browser
) -> None:
    oldest = await desk.ask()
    desk.rig.clock.advance(1)
    fill(desk, 1100, decided=True)
    fill(desk, 119)
    pages = [await browser.read("/approvals")]
    while found := re.search(r'<a href="([^"]+)" rel="next">', pages[-1]):
        pages.append(await browser.read(unescape(found[1])))
    shown = [re.findall('<article class="card" id="case-([^"]+)"', page) for page in pages]
    assert [len(ids) for ids in shown] == [50, 50, 20]
    assert shown[0][0] == oldest
    assert len({each for ids in shown for each in ids}) == 120
    assert all("120 changes wait" in visible(page) for page in pages)


@pytest.mark.parametrize("after", ["x", "1-", "nan-a", "-1-a", "1-a b", "1" * 30 + "-a"])
async def test_a_page_that_can_not_be_is_refused(browser: Browser, after: str) -> None:
    assert (await browser.get(f"/approvals?after={after}")).status_code == 400


async def test_a_page_reads_what_it_shows_and_those_who_listen_read_nothing(
    desk: Desk, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.ask()  # which creates the file
    fill(desk, 299)
    read = list[bytes | str]()
    whole = models.parse_request

    def counted(request: str, decision: str | None = None) -> ApprovalRequest | None:
        read.append(request)
        return whole(request, decision)

    monkeypatch.setattr(models, "parse_request", counted)
    page = await browser.read("/approvals")
    assert len(read) == page.count('<article class="card"') == 50
    async with browser.news("approvals") as news:
        await anext(news)
        fill(desk, 1)
        await anext(news)
    assert len(read) == 50


def fill(desk: Desk, count: int, *, decided: bool = False) -> None:
    """Have this many requests be pending, or decided, without asking for each."""
    now = desk.rig.clock()
    decision = as_json(OperatorDecision(is_approval=True, by="ann", at=now)) if decided else None
    requests = [
        ApprovalRequest(
            token_hex(8),
            Binding("create_call", "", f"of {number}"),
            "place",
            f"Call {number}",
            "probe",
            "confirm.place",
            now,
            now + 900,
        )
        for number in range(count)
    ]
    rows = [
        (each.identifier, each.owner, as_json(each), now, now + 900, decision) for each in requests
    ]
    with closing(sqlite3.connect(desk.record.parent / "state.db")) as file, file:
        file.executemany("INSERT INTO approval_requests VALUES (?, ?, ?, ?, ?, ?)", rows)
