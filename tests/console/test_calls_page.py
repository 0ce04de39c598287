"""Calls, their timelines and hanging up."""

import csv
import io
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from calls_mcp.console import Address, open_console
from calls_mcp.service.runtime import Runtime
from calls_mcp.service.runtime import access_to as sandbox_access
from calls_mcp.settings import load_settings
from tests.audit_records import records_in
from tests.console.harness import (
    Harness,
    WebClient,
    open_harness,
    sign_in,
    sign_in_alone,
    text_of,
)
from tests.harness import access_to, placing

pytestmark = pytest.mark.anyio


@pytest.fixture
def rules() -> str:
    return 'place = "never"'


async def test_live_calls_are_listed_first(harness: Harness, ann: WebClient) -> None:
    assert "No live calls" in text_of(await ann.read("/calls"))
    sid = await harness.place_call()
    live, _, ended = (await ann.read("/calls")).partition("<h2>Ended</h2>")
    assert sid in live
    assert "In progress" in live
    assert sid not in ended


def count_reads(harness: Harness) -> int:
    """The number of reads of the API, without those for the overview at the start."""
    return sum("PageSize=1000" not in each.query for each in harness.reads)


async def test_visitors_share_one_read_of_the_api(harness: Harness, ann: WebClient) -> None:
    await harness.place_call()
    await ann.read("/calls")
    once = count_reads(harness)
    for _ in range(50):
        await ann.read("/calls")
    assert count_reads(harness) == once
    harness.clock.advance(5)
    await ann.read("/calls")
    assert count_reads(harness) == 2 * once


async def test_fifty_open_tabs_cause_as_many_reads_as_one(tmp_path: Path) -> None:
    assert await reads(tmp_path, 50) == await reads(tmp_path, 1) > 0


async def reads(folder: Path, tabs: int) -> int:
    """The number of reads that these tabs cause, before and after another call is placed."""
    async with (
        open_harness(folder, 'place = "never"') as harness,
        sign_in(harness.console) as client,
        AsyncExitStack() as stack,
    ):
        sid = await harness.place_call()
        before = count_reads(harness)
        opened = [await stack.enter_async_context(client.events("calls")) for _ in range(tabs)]
        await refresh_all(client, opened, sid)
        await harness.place_call()
        await refresh_all(client, opened, sid)
        return count_reads(harness) - before


async def refresh_all(client: WebClient, tabs: Sequence[AsyncIterator[str]], sid: str) -> None:
    """Have all tabs load their page at the next event.

    The first tab loads the list and then the call. The others alternate between the two.
    """
    pages = "/calls", f"/calls/{sid}"

    async def refresh(tab: AsyncIterator[str], number: int) -> None:
        await anext(tab)
        for path in (pages[number % 2],) if number else pages:
            await client.read(path)

    async with anyio.create_task_group() as tasks:
        for number, tab in enumerate(tabs):
            tasks.start_soon(refresh, tab, number)


async def test_a_call_has_a_timeline(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness, sign_in(harness.console) as ann:
        async with harness.connect() as agent:
            asked = await agent.call("create_call", **placing())
            approval = asked["confirmation"]["approval"]
            await ann.decide(f"/approvals/{approval}", decision="approve")
            sid = (await agent.call("create_call", **placing()))["call"]["sid"]
        harness.clock.advance(20)
        text = text_of(await ann.read(f"/calls/{sid}"))
    steps = [
        "tester requested this call",
        "Call approved by ann",
        "Call request sent to the API for tester, approved by the operator",
        "Call request accepted",
        "HTTP 201",
        "Call created",
    ]
    positions = [text.find(step) for step in steps]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert "Call answered noticed by this console" in text


async def test_a_call_of_the_sandbox_shows_what_the_callee_heard(tmp_path: Path) -> None:
    async with (
        open_harness(tmp_path, 'place = "never"') as harness,
        sign_in(harness.console) as ann,
    ):
        sid = await harness.place_call()
        await harness.emulator.advance(0)
        before = text_of(await ann.read(f"/calls/{sid}"))
        sandbox = sandbox_access(harness.emulator, harness.runtime.settings)
        harness.runtime.access = replace(harness.runtime.access, transcript=sandbox.transcript)
        after = text_of(await ann.read(f"/calls/{sid}"))
    assert "Transcript" not in before
    assert "Transcript 0:03 answered by a human 0:03 said “Hello”" in after


async def test_the_end_of_a_completed_call_is_marked_as_good(
    harness: Harness, ann: WebClient
) -> None:
    sid = await harness.place_call()
    harness.clock.advance(7200)
    html = await ann.read(f"/calls/{sid}")
    assert re.search('<li class="good">[^/]*</time> <div><strong>Call ended', html)


async def test_without_credentials_the_timeline_shows_the_audit_log(harness: Harness) -> None:
    sid = await harness.place_call()
    async with sign_in_alone(calls_mcp_audit_database=harness.database) as client:
        text = text_of(await client.read(f"/calls/{sid}"))
        assert (await client.get("/calls/CA" + "0" * 32)).status_code == 404
        for path in ("/calls", "/overview"):
            assert "Missing credentials" in text_of(await client.read(path))
    assert "Call request sent to the API for tester" in text
    assert "Missing credentials" in text


@pytest.mark.parametrize("need", ["never", "confirm", "require_human", "operator"])
async def test_hanging_up_is_confirmed_and_recorded(need: str, tmp_path: Path) -> None:
    rules = f'place = "never"\nhang_up = "{need}"'
    async with open_harness(tmp_path, rules) as harness, sign_in(harness.console) as ann:
        sid = await harness.place_call()
        path = f"/calls/{sid}/hang-up"
        assert "can't undo it" in text_of(await ann.read(path))
        assert len(harness.changes) == 1
        done = await ann.decide(path)
        assert done.headers["location"] == f"/calls/{sid}"
        assert "completed" in text_of(await ann.read(f"/calls/{sid}"))
        assert len(harness.changes) == 2
    recorded = records_in(harness.database)
    (begun,) = [r for r in recorded if r["phase"] == "before" and r["action"] == "hang_up"]
    assert (begun["principal"], begun["sid"]) == ("console: ann", sid)


async def test_hanging_up_follows_the_policy(tmp_path: Path) -> None:
    rules = 'place = "never"\nhang_up = "deny"'
    async with open_harness(tmp_path, rules) as harness, sign_in(harness.console) as ann:
        path = f"/calls/{await harness.place_call()}/hang-up"
        refused = await ann.decide(path)
        assert refused.status_code == 409
        assert "confirm.hang_up" in text_of(refused.text)
        assert len(harness.changes) == 1


async def test_a_read_only_console_hangs_nothing_up(tmp_path: Path) -> None:
    async with open_harness(tmp_path, 'place = "never"\nhang_up = "never"') as harness:
        sid = await harness.place_call()
        settings = load_settings(
            {
                "calls_mcp_read_only": True,
                "calls_mcp_state_url": f"sqlite:///{harness.database}",
                "calls_mcp_confirm": "none",
            }
        )
        access = access_to(harness.emulator.base_url)
        async with (
            Runtime(settings, access, clock=harness.clock) as runtime,
            open_console(settings, Address(port=0), runtime, harness.clock) as console,
            sign_in(console) as ann,
        ):
            assert "hang-up" not in await ann.read(f"/calls/{sid}")
            path = f"/calls/{sid}/hang-up"
            refused = await ann.decide(path)
            assert refused.status_code == 409
            assert "this server is read-only" in text_of(refused.text)
        assert len(harness.changes) == 1
    last = records_in(harness.database)[-1]
    assert (last["decision"], last["rule"]) == ("refused", "CALLS_MCP_READ_ONLY")


async def test_an_ended_call_cannot_be_hung_up(harness: Harness, ann: WebClient) -> None:
    path = f"/calls/{await harness.place_call()}/hang-up"
    assert (await ann.decide(path)).status_code == 303
    page = await ann.read(path)
    assert "This call has already ended." in text_of(page)
    assert f'action="{path}"' not in page
    assert (await ann.decide(path)).status_code == 409
    assert len(harness.changes) == 2


async def test_hanging_up_requires_the_decision_code(harness: Harness, ann: WebClient) -> None:
    sid = await harness.place_call()
    assert (await ann.post(f"/calls/{sid}/hang-up")).status_code == 403
    assert len(harness.changes) == 1


@pytest.mark.parametrize("sid", ["CA" + "0" * 32, "nothing", "CA%3Cscript%3E"])
async def test_an_unknown_call_is_not_found(ann: WebClient, sid: str) -> None:
    missing = await ann.get(f"/calls/{sid}")
    assert missing.status_code == 404
    assert "<script>" not in missing.text


async def calls_in(ann: WebClient, query: str) -> list[str]:
    """The SIDs on a page of calls."""
    html = await ann.read(f"/calls?{query}")
    return re.findall(r'<tr id="ended-(CA[0-9a-f]{32})"', html)


def add_calls(harness: Harness, count: int, **changes: object) -> list[str]:
    """Add copies of the first call with these changes, each older than the one before."""
    first = harness.emulator.calls.all()[0]
    beginning = len(harness.emulator.calls.all())
    sids = [f"CA{beginning + number:032x}" for number in range(count)]
    for sid in sids:
        harness.emulator.calls.add(first._replace(sid=sid, **changes))
    return sids


async def test_only_a_later_page_has_a_link_to_the_newest_calls(
    harness: Harness, ann: WebClient
) -> None:
    await harness.place_call()
    add_calls(harness, 60)
    first, later, *_ = await ann.read_all("/calls?status=in-progress")
    assert ">Newest calls</a>" not in first
    assert ">Newest calls</a>" in later


async def test_calls_are_filtered_by_what_the_url_says(harness: Harness, ann: WebClient) -> None:
    sid = await harness.place_call("front desk")
    (inbound,) = add_calls(harness, 1, direction="inbound", from_="+442079460000")
    assert sorted(await calls_in(ann, "status=in-progress")) == sorted([sid, inbound])
    assert await calls_in(ann, "direction=inbound") == [inbound]
    assert await calls_in(ann, "search=7946+00") == [inbound]
    assert await calls_in(ann, "from=%2B44+20+7946+0000") == [inbound]
    assert await calls_in(ann, "by=front") == [sid]
    assert await calls_in(ann, "status=busy") == []
    assert await calls_in(ann, "until=2023-11-13") == []
    found = await ann.get(f"/calls?search={sid}")
    assert (found.status_code, found.headers["location"]) == (303, f"/calls/{sid}")


@pytest.mark.parametrize("page", ["/calls", "/calls/export.jsonl", "/audit", "/audit/export.jsonl"])
async def test_dates_are_days_of_the_reader(harness: Harness, ann: WebClient, page: str) -> None:
    sid = await harness.place_call()  # on 2023-11-14 at 22:13 UTC
    for zone, day, other in (
        ("UTC", "2023-11-14", "2023-11-15"),
        ("Africa/Cairo", "2023-11-15", "2023-11-14"),
        ("America/New_York", "2023-11-14", "2023-11-15"),
    ):
        ann.http.cookies.set("zone", zone)
        assert sid in await ann.read(f"{page}?since={day}&until={day}"), zone
        assert sid not in await ann.read(f"{page}?since={other}&until={other}"), zone


async def test_without_javascript_times_and_dates_are_in_the_same_zone(
    harness: Harness, ann: WebClient
) -> None:
    sid = await harness.place_call()
    for path in ("/calls", "/audit", f"/calls/{sid}"):
        text = text_of(await ann.read(path))
        assert "2023-11-14 22:13:20 UTC" in text
    assert "From date (UTC)" in text_of(await ann.read("/calls"))
    ann.http.cookies.set("zone", "Africa/Cairo")
    for path in ("/calls", "/audit", f"/calls/{sid}"):
        text = text_of(await ann.read(path))
        assert "2023-11-15 00:13:20" in text
        assert "UTC" not in text


async def test_a_live_call_shows_the_time_since_it_was_dialed(
    harness: Harness, ann: WebClient
) -> None:
    sid = await harness.place_call()
    for path, label in (("/calls", "dialed 19 s ago"), (f"/calls/{sid}", "Dialed 19 s ago")):
        text = text_of(await ann.read(path))
        assert label in text


async def test_only_the_cost_of_an_answered_call_is_not_known_yet(
    harness: Harness, ann: WebClient
) -> None:
    await harness.place_call()
    for status, cost in (("completed", "not known yet"), ("busy", "none reported")):
        (sid,) = add_calls(harness, 1, status=status, price=None)
        assert f"Cost {cost}" in text_of(await ann.read(f"/calls/{sid}"))


async def test_directions_are_in_the_words_of_previews(harness: Harness, ann: WebClient) -> None:
    await harness.place_call()
    (dialed,) = add_calls(harness, 1, direction="outbound-dial")
    words = "Outbound, dialed by another call"
    assert f"<dd>{words}</dd>" in await ann.read(f"/calls/{dialed}")
    calls = await ann.read("/calls")
    assert f'<option value="outbound-dial">{words}</option>' in calls
    assert '<option value="outbound-api">Outbound</option>' in calls


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "since=0001-01-01",
        "until=2026-13-01",
        "until=9999-12-31",
        "status=x",
        "direction=x",
    ],
)
async def test_an_invalid_filter_is_explained(harness: Harness, ann: WebClient, query: str) -> None:
    await harness.place_call()
    for path in (f"/calls?{query}", f"/calls/export.csv?{query}"):
        response = await ann.get(path)
        assert response.status_code == 400
        assert ": use " in text_of(response.text)
    invalid = await ann.get("/calls?cursor=x")
    assert invalid.status_code == 400
    assert "Invalid page position." in text_of(invalid.text)


async def test_all_calls_can_be_reached_page_by_page(harness: Harness, ann: WebClient) -> None:
    await harness.place_call()
    harness.clock.advance(3600)
    sids = {call.sid for call in harness.emulator.calls.all()} | {*add_calls(harness, 120)}
    pages = await ann.read_all("/calls")
    shown = [re.findall(r'<tr id="ended-(CA[0-9a-f]{32})"', page) for page in pages]
    assert [len(each) for each in shown] == [50, 50, 21]
    assert {sid for each in shown for sid in each} == sids


async def test_the_calls_on_a_page_are_sorted_by_a_column(harness: Harness, ann: WebClient) -> None:
    await harness.place_call()
    harness.clock.advance(3600)
    await ann.read("/calls")
    add_calls(harness, 3)
    for number in range(3):
        add_calls(harness, 1, to=f"+1202555010{number}")
    html = await ann.read("/calls?sort=-to&status=completed")
    rows = text_of(html).partition("Requested by")[2]
    numbers = re.findall(r"(\+1 [0-9 ]+) US from", rows)
    assert numbers == sorted(numbers, reverse=True)
    assert len({*numbers}) > 3
    assert 'aria-sort="descending"' in html
    assert "This page is sorted by “To”, descending." in text_of(html)
    assert "sort=to" in html


async def test_the_matching_calls_are_exported(harness: Harness, ann: WebClient) -> None:
    sid = await harness.place_call("front desk")
    (other,) = add_calls(harness, 1, direction="inbound", from_='=HYPERLINK("evil")')
    exported = await ann.get("/calls/export.csv")
    assert exported.headers["content-type"] == "text/csv; charset=utf-8"
    rows = {row["sid"]: row for row in csv.DictReader(io.StringIO(exported.text))}
    assert {*rows} == {sid, other}
    assert rows[sid]["requested_by"] == "front desk"
    assert rows[other]["from"] == '\'=HYPERLINK("evil")'
    lines = (await ann.get("/calls/export.jsonl?direction=inbound")).text.splitlines()
    assert [json.loads(line)["sid"] for line in lines] == [other]
    assert (await ann.get("/calls/export.xml")).status_code == 404


async def test_a_call_shows_its_instructions_its_approval_and_its_legs(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness, sign_in(harness.console) as ann:
        approval = await harness.request_call()
        await ann.decide(f"/approvals/{approval}", decision="approve")
        sid = await harness.place_call()
        (leg,) = add_calls(harness, 1, parent_call_sid=sid)
        html = await ann.read(f"/calls/{sid}")
        assert f'<a href="/calls/{sid}"><code>' in await ann.read(f"/calls/{leg}")
    text = text_of(html)
    assert "A voice says" in text
    assert "Requested by tester" in text
    assert "Decided by ann" in text
    assert f'href="/approvals/{approval}"' in html
    assert f'id="legs-{leg}"' in html
    assert 'href="/calls?search=%2B15005550205"' in html
    assert '"sid"' in text
