"""Approval requests and decisions."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from xml.sax.saxutils import escape

import anyio
import pytest

from calls_mcp.storage import records
from calls_mcp.storage.records import ApprovalRequest, Binding, OperatorDecision, as_json
from calls_mcp.tools.outcome import Preview
from tests.audit_records import records_in
from tests.console.harness import (
    Harness,
    WebClient,
    anonymous,
    open_harness,
    sign_in,
    sign_in_alone,
    text_of,
)
from tests.harness import CALLER, placing

pytestmark = pytest.mark.anyio

SCRIPT = "<script>alert(1)</script>"
BIDI = "\u202eevil\u202c"


async def decide(client: WebClient, approval: str, decision: str, reason: str = "") -> str:
    """Press a button. Return the HTML of the next page, which has the receipt."""
    path = f"/approvals/{approval}"
    response = await client.decide(path, decision=decision, reason=reason)
    assert response.status_code == 303
    return await client.read(response.headers["location"])


async def test_pending_requests_are_shown(harness: Harness, ann: WebClient) -> None:
    assert "No pending approval requests." in text_of(await ann.read("/approvals"))
    approval = await harness.request_call()
    harness.clock.advance(60)
    text = text_of(await ann.read("/approvals"))
    for part in (
        "(1) Approvals",
        "1 pending approval request.",
        approval,
        "Call +1 500 555",
        CALLER,
    ):
        assert part in text
    for part in ("Client tester 1", "60 s ago", "expires in 14 min", "confirm.place"):
        assert part in text


async def test_an_approved_call_is_placed_when_the_agent_retries(
    harness: Harness, ann: WebClient
) -> None:
    approval = await harness.request_call()
    text = text_of(await decide(ann, approval, "approve"))
    assert "Approved by ann" in text
    assert "Running now." in text
    harness.clock.advance(10)  # without a heartbeat
    assert "It runs when the agent retries." in text_of(await ann.read(f"/approvals/{approval}"))
    assert "No pending approval requests." in text_of(await ann.read("/approvals"))
    assert harness.changes == []
    async with harness.connect() as agent:
        outcome = await agent.call("create_call", **placing())
    assert outcome["outcome"] == "done"
    page = await ann.read(f"/approvals/{approval}")
    assert "Done. View the call and its timeline" in text_of(page)
    assert f'href="/calls/{outcome["call"]["sid"]}"' in page
    assert len(harness.changes) == 1
    assert "ann" in {each.get("decided_by") for each in records_in(harness.database)}


async def test_a_request_of_a_stopped_server_says_so(harness: Harness, ann: WebClient) -> None:
    path = f"/approvals/{await harness.request_call()}"
    assert "has stopped" not in text_of(await ann.read(path))
    harness.clock.advance(10)  # without a heartbeat
    assert "The server that asked has stopped." in text_of(await ann.read(path))


async def test_the_agent_receives_the_reason_of_a_denial(harness: Harness, ann: WebClient) -> None:
    approval = await harness.request_call()
    text = text_of(await decide(ann, approval, "deny", "not at night"))
    assert "Denied by ann" in text
    assert "not at night" in text
    async with harness.connect() as agent:
        outcome = await agent.call("create_call", **placing())
    assert outcome["outcome"] == "declined"
    assert "not at night" in outcome["reason"]
    assert harness.changes == []


async def test_a_second_decision_shows_the_first(harness: Harness, ann: WebClient) -> None:
    approval = await harness.request_call()
    async with sign_in(harness.console, "bob") as bob:
        await decide(ann, approval, "deny", "no")
        late = await bob.decide(f"/approvals/{approval}", decision="approve")
    assert late.status_code == 409
    assert "Your decision was not used, because this request was already denied by ann." in text_of(
        late.text
    )


async def test_only_one_of_two_simultaneous_decisions_is_used(
    harness: Harness, ann: WebClient
) -> None:
    path = f"/approvals/{await harness.request_call()}"
    statuses: list[int] = []

    async def press(client: WebClient) -> None:
        response = await client.decide(path, decision="approve")
        statuses.append(response.status_code)

    async with sign_in(harness.console, "bob") as bob, anyio.create_task_group() as tasks:
        tasks.start_soon(press, ann)
        tasks.start_soon(press, bob)
    assert sorted(statuses) == [303, 409]


async def test_an_expired_request_cannot_be_decided(harness: Harness, ann: WebClient) -> None:
    path = f"/approvals/{await harness.request_call()}"
    harness.clock.advance(900)
    assert "No pending approval requests." in text_of(await ann.read("/approvals"))
    late = await ann.decide(path, decision="approve")
    assert late.status_code == 409
    for html in (late.text, await ann.read(path)):
        assert "Expired without a decision" in text_of(html)
        assert 'value="approve"' not in html


@pytest.mark.parametrize("decision", ["", "approved", "APPROVE"])
async def test_a_decision_is_approve_or_deny(
    harness: Harness, ann: WebClient, decision: str
) -> None:
    path = f"/approvals/{await harness.request_call()}"
    assert (await ann.decide(path, decision=decision)).status_code == 400
    assert "1 pending approval request." in text_of(await ann.read("/approvals"))


async def test_a_decision_requires_a_session_and_its_code(harness: Harness, ann: WebClient) -> None:
    approval = await harness.request_call()
    async with anonymous(harness.console) as thief:
        refused = await thief.post(f"/approvals/{approval}", decision="approve")
        assert refused.status_code == 401
        assert approval not in refused.text
    async with sign_in(harness.console, "bob") as bob:
        for code in ("", "0" * 16, "é", bob.code):
            refused = await ann.post(f"/approvals/{approval}", code=code, decision="approve")
            assert refused.status_code == 403
            assert "To get a new one, sign in again." in text_of(refused.text)
    assert "1 pending approval request." in text_of(await ann.read("/approvals"))


async def test_after_a_decision_the_next_request_appears_with_a_receipt(
    harness: Harness, ann: WebClient
) -> None:
    approvals = list[str]()
    for seconds in (60, 70, 80):
        harness.clock.advance(1)
        approvals.append(await harness.request_call(time_limit=seconds))
    first, second, third = approvals
    after_second = await decide(ann, second, "approve")
    assert f'<article id="approval-{third}"' in after_second
    assert "Approved by ann" in text_of(after_second)
    after_third = await decide(ann, third, "deny", "not now")
    assert f'<article id="approval-{first}"' in after_third
    assert "Denied by ann" in text_of(after_third)
    assert "Reason: not now" in text_of(after_third)


@pytest.mark.parametrize(
    ("action", "label", "effect", "is_confirmed_again"),
    [
        ("place", "Call now", "", False),
        ("hang_up", "Hang up", "Ends a live call", True),
        ("delete", "Delete record", "Deletes a record", True),
    ],
)
async def test_the_button_names_the_action_and_destructive_ones_ask_twice(
    action: str, label: str, effect: str, *, is_confirmed_again: bool, tmp_path: Path
) -> None:
    rules = "\n".join(f'{each} = "operator"' for each in ("place", "hang_up", "delete"))
    async with open_harness(tmp_path, rules) as harness, sign_in(harness.console) as ann:
        sid = await approved_call(harness, ann)
        async with harness.connect() as agent:
            if action == "place":
                asked = await agent.call("create_call", **placing(time_limit=60))
            elif action == "hang_up":
                asked = await agent.call("update_call", sid=sid, status="completed")
            else:
                harness.clock.advance(7200)
                asked = await agent.call("delete_call", sid=sid)
        path = f"/approvals/{asked['confirmation']['approval']}"
        queue, _, request = text_of(await ann.read(path)).partition("Requested by")
        assert effect in queue
        button = f"{label}…" if is_confirmed_again else label
        assert f"{button} Decision code" in request
        once = await ann.decide(path, decision="approve")
        assert ("confirm=1" in once.headers["location"]) == is_confirmed_again
        assert ("Approved by ann" in text_of(await ann.read(path))) != is_confirmed_again
        if is_confirmed_again:
            asking = await ann.read(once.headers["location"].partition("#")[0])
            assert "You can't undo it." in text_of(asking)
            assert f"Yes, {label.lower()}" in text_of(asking)
            await ann.decide(path, decision="approve", confirmed="1")
            assert "Approved by ann" in text_of(await ann.read(path))


async def approved_call(harness: Harness, client: WebClient) -> str:
    """Have an agent place a call that `client` approves. Return its SID, once answered."""
    await client.decide(f"/approvals/{await harness.request_call()}", decision="approve")
    return await harness.place_call()


async def test_recent_decisions_are_listed_with_their_operator(
    harness: Harness, ann: WebClient
) -> None:
    denied = await harness.request_call()
    await decide(ann, denied, "deny", "wrong number")
    expired = await harness.request_call(time_limit=60)
    harness.clock.advance(901)
    _, _, recent = (await ann.read("/approvals")).partition('id="recent"')
    assert f"/approvals/{denied}" in recent
    assert f"/approvals/{expired}" in recent
    assert "by ann, 2023-11-14 22:13:20 UTC: wrong number" in text_of(recent)
    assert "Expired Call +1 500 555 0205 2023-11-14" in text_of(recent)


async def test_every_page_shows_the_number_of_pending_requests(
    harness: Harness, ann: WebClient
) -> None:
    await harness.request_call()
    for path in ("/approvals", "/calls", "/audit", "/overview", "/policy", "/operators"):
        page = await ann.read(path)
        assert "<title>(1) " in page, path
        assert "Approvals 1 pending" in text_of(page), path


async def test_an_unknown_request_is_not_found(ann: WebClient) -> None:
    missing = await ann.get("/approvals/%3Cscript%3E")
    assert missing.status_code == 404
    assert "No approval request has this id" in missing.text
    assert "<script>" not in missing.text


async def test_untrusted_text_is_escaped(harness: Harness) -> None:
    twiml = f"<Response><Say>{escape(SCRIPT)}</Say></Response>"
    approval = await harness.request_call(f"{SCRIPT}{BIDI}", twiml=twiml)
    async with sign_in(harness.console, f"ann {SCRIPT}") as client:
        index = await client.read("/approvals")
        approval_page = await decide(client, approval, "deny", f"{SCRIPT}{BIDI} \"'&")
    for html in (index, approval_page):
        assert SCRIPT not in html
        assert "&lt;script&gt;" in html
        assert not re.search("[\\u202a-\\u202e\\u2066-\\u2069]", html)


async def test_the_page_has_no_inline_script_or_style(harness: Harness, ann: WebClient) -> None:
    await harness.request_call()
    html = await ann.read("/approvals")
    assert re.findall("<script[^>]*>", html) == ['<script src="/static/console.js" defer>']
    assert not re.search(r"<style|style=|\son\w+=|https?://(?!example)", html)
    for file in ("console.js", "console.css"):
        assert (await ann.get(f"/static/{file}")).status_code == 200


async def test_the_page_explains_a_store_that_is_not_shared() -> None:
    async with sign_in_alone(calls_mcp_state_url="memory:") as client:
        assert "CALLS_MCP_STATE_URL is memory:" in text_of(await client.read("/approvals"))


async def test_all_pending_requests_can_be_reached(harness: Harness, ann: WebClient) -> None:
    oldest = await harness.request_call()
    harness.clock.advance(1)
    insert_requests(harness, 1100, decided=True)
    insert_requests(harness, 119)
    pages = await ann.read_all("/approvals")
    shown = [re.findall('<li id="row-([^"]+)"', page) for page in pages]
    assert [len(ids) for ids in shown] == [50, 50, 20]
    assert shown[0][0] == oldest
    assert len({each for ids in shown for each in ids}) == 120
    assert all("120 pending approval requests." in text_of(page) for page in pages)


@pytest.mark.parametrize("after", ["x", "1-", "nan-a", "-1-a", "1-a b", "1" * 30 + "-a"])
async def test_an_invalid_position_is_refused(ann: WebClient, after: str) -> None:
    assert (await ann.get(f"/approvals?after={after}")).status_code == 400


async def test_a_page_reads_only_the_requests_it_shows_and_events_read_none(
    harness: Harness, ann: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.request_call()  # creates the file
    insert_requests(harness, 299)
    read = list[bytes | str]()
    parse = records.parse_request

    def counted(request: str, decision: str | None = None) -> ApprovalRequest | None:
        read.append(request)
        return parse(request, decision)

    monkeypatch.setattr(records, "parse_request", counted)
    page = await ann.read("/approvals")
    assert page.count('<li id="row-') == 50
    assert len(read) <= 150  # also the newest, for the recent decisions
    read.clear()
    async with ann.events("approvals") as events:
        await anext(events)
        insert_requests(harness, 1)
        await anext(events)
    assert read == []


def insert_requests(harness: Harness, count: int, *, decided: bool = False) -> None:
    """Insert this many pending or decided requests into the database."""
    now = harness.clock()
    decision = as_json(OperatorDecision(is_approval=True, by="ann", at=now)) if decided else None
    requests = [
        ApprovalRequest(
            token_hex(8),
            Binding("create_call", "", f"of {number}"),
            "place",
            Preview(f"Call {number}", "of"),
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
    with closing(sqlite3.connect(harness.database)) as file, file:
        file.executemany("INSERT INTO approval_requests VALUES (?, ?, ?, ?, ?, ?)", rows)
