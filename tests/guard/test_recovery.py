"""Lookups of changes whose responses were lost."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.harness import ACCOUNT, CALLER, TALKS_FOR_AN_HOUR, placing
from tests.upstream import SID, Step, answer, call, drop, hang, page, scripted

pytestmark = pytest.mark.anyio

OTHER_SID = "CA" + "2" * 32
GONE = answer(404, {"code": 20404, "message": "not found", "status": 404})
HANG_UP: dict[str, object] = {"sid": SID, "status": "completed"}


def placed(sid: str = SID, ago: float = 0, caller: str = CALLER, **fields: str) -> dict[str, Any]:
    """An outbound call that was created so many seconds ago."""
    created = format_datetime(datetime.now(UTC) - timedelta(seconds=ago))
    parties = {"to": TALKS_FOR_AN_HOUR, "from": caller, "direction": "outbound-api"}
    return call(sid=sid, **(parties | {"date_created": created} | fields))


async def test_a_new_call_that_a_lookup_finds_is_done_and_recovered() -> None:
    async with scripted(drop, answer(200, page(placed()))) as (upstream, agent):
        outcome = await agent.call("create_call", **placing())
    assert outcome["outcome"] == "done"
    assert outcome["recovered"] is True
    assert outcome["call"]["sid"] == SID
    assert "response was lost" in outcome["warnings"][0]
    assert len(upstream.changes) == 1
    assert upstream.requests[1].query == {"To": TALKS_FOR_AN_HOUR, "From": CALLER, "PageSize": "20"}


async def test_a_new_call_that_is_listed_a_moment_later_is_found() -> None:
    late = answer(200, page(placed()))
    async with scripted(drop, answer(200, page()), late) as (upstream, agent):
        outcome = await agent.call("create_call", **placing())
    assert outcome["recovered"] is True
    assert len(upstream.changes) == 1


ALICE = "sip:alice@example.com"
RECORDED_PARTIES = [
    (ALICE, "jack", ALICE, "sip:jack@account.sip.example.com"),
    (ALICE, "Jack", ALICE, "Jack"),
    (ALICE, "front-desk", "alice@example.com", "front-desk@account.sip.example.com:5060"),
    (ALICE, CALLER, ALICE, f"sip:{CALLER}@account.sip.example.com"),
    ("sip:alice@Example.COM;transport=tls", "jack", ALICE, "sip:Jack@account.sip.example.com"),
    ("sips:alice@example.com?X-Order=7", "jack", ALICE, "sip:jack@account.sip.example.com"),
    ("client:alice?order=7", "client:bob", "client:alice", "client:bob"),
    ("client:alice", "Bob", "client:alice", "client:Bob"),
]
"""The parties as they are sent, and as the API records them."""


@pytest.mark.parametrize(("to", "caller", "recorded_to", "recorded_caller"), RECORDED_PARTIES)
async def test_a_new_call_is_found_however_the_api_records_its_parties(
    to: str, caller: str, recorded_to: str, recorded_caller: str
) -> None:
    record = placed(to=recorded_to, caller=recorded_caller)
    others = [placed(OTHER_SID), placed("CA" + "3" * 32, to="sip:al@example.com")]
    async with scripted(drop, answer(200, page(*others, record))) as (upstream, agent):
        outcome = await agent.call("create_call", **placing(**{"to": to, "from": caller}))
    assert outcome["outcome"] == "done"
    assert outcome["recovered"] is True
    assert outcome["call"]["sid"] == SID
    assert upstream.requests[1].query == {"PageSize": "200"}


@pytest.mark.parametrize(
    ("recorded_to", "recorded_caller"),
    [
        (ALICE, "sip:jill@account.sip.example.com"),
        ("sip:alice@example.org", "sip:jack@account.sip.example.com"),
        ("sip:bob@example.com", "sip:jack@account.sip.example.com"),
        ("client:alice", "jack"),
        (ALICE, ""),
    ],
)
async def test_a_new_call_between_other_parties_is_not_taken_for_the_lost_one(
    recorded_to: str, recorded_caller: str
) -> None:
    listed = answer(200, page(placed(to=recorded_to, caller=recorded_caller)))
    async with scripted(drop, listed) as (_, agent):
        outcome = await agent.call("create_call", **placing(**{"to": ALICE, "from": "jack"}))
    assert outcome["error"]["kind"] == "outcome_unknown"
    hint = outcome["error"]["hint"]
    assert f"list_calls (to={ALICE}, account_sid={ACCOUNT})" in hint


async def test_calls_that_the_api_records_alike_are_not_taken_for_each_other() -> None:
    record = placed(to=ALICE, caller="sip:jack@account.sip.example.com")
    script = [drop, answer(400), drop, answer(200, page(record))]
    async with scripted(*script) as (_, agent):
        first = await agent.call("create_call", **placing(**{"to": ALICE, "from": "jack"}))
        again = placing(**{"to": "sip:alice@EXAMPLE.com;transport=tls", "from": "Jack"})
        second = await agent.confirm("create_call", **again)
    assert first["error"]["kind"] == "outcome_unknown"
    assert second["error"]["kind"] == "outcome_unknown"


REDIRECTING: dict[str, object] = {"sid": SID, "url": "https://example.com/"}
LIVE, OVER = answer(200, call(status="in-progress")), answer(200, call(status="completed"))
UNKNOWN: dict[str, tuple[Step, Step, str, dict[str, object]]] = {
    "no such call": (drop, answer(200, page()), "create_call", placing()),
    "an older call": (drop, answer(200, page(placed(ago=60))), "create_call", placing()),
    "the inbound leg": (
        *(drop, answer(200, page(placed(direction="inbound")))),
        *("create_call", placing()),
    ),
    "two calls": (drop, answer(200, page(placed(), placed(OTHER_SID))), "create_call", placing()),
    "no time": (drop, answer(200, page(placed(date_created=""))), "create_call", placing()),
    "a record that is there": (drop, OVER, "delete_call", {"sid": SID}),
    "a 404 not of the API": (
        drop,
        answer(404, "<html>no route</html>"),
        "delete_call",
        {"sid": SID},
    ),
    "a call that is live": (drop, LIVE, "update_call", HANG_UP),
    "another call": (
        *(drop, answer(200, call(sid=OTHER_SID, status="completed"))),
        *("update_call", HANG_UP),
    ),
    "no call": (drop, answer(200, {"account_sid": ACCOUNT}), "update_call", HANG_UP),
    "a redirection": (drop, answer(200, call()), "update_call", REDIRECTING),
    "a gateway that gave up": (answer(502), LIVE, "update_call", HANG_UP),
    "a gateway in time": (answer(504), LIVE, "update_call", HANG_UP),
    "a hang-up and redirection": (answer(500), LIVE, "update_call", HANG_UP | REDIRECTING),
}
"""How a change fails, what is then seen, and the change."""


@pytest.mark.parametrize("seen", UNKNOWN)
async def test_an_uncertain_lookup_leaves_the_outcome_unknown_and_sends_nothing(seen: str) -> None:
    failing, answering, tool, arguments = UNKNOWN[seen]
    async with scripted(failing, answering) as (upstream, agent):
        outcome = await agent.call(tool, **arguments)
    assert outcome["error"]["kind"] == "outcome_unknown"
    assert len(upstream.changes) == 1
    if tool == "create_call":
        parties = f"to={TALKS_FOR_AN_HOUR}, from={CALLER}, account_sid={ACCOUNT}"
        assert parties in outcome["error"]["hint"]


async def test_a_lookup_ignores_calls_that_this_server_placed_before() -> None:
    before = placed()
    listed = answer(200, page(before))
    async with scripted(answer(201, before), drop, listed) as (_, agent):
        first = await agent.call("create_call", **placing())
        second = await agent.call("create_call", **placing(timeout=20))
    assert first["outcome"] == "done"
    assert second["error"]["kind"] == "outcome_unknown"


@pytest.mark.requirement("11")
async def test_repeating_an_unknown_call_needs_a_confirmation_that_says_why() -> None:
    nothing = answer(200, page())
    script: list[Step] = [drop, nothing, nothing, nothing, answer(201, placed())]
    async with scripted(*script) as (upstream, agent):
        first = await agent.call("create_call", **placing())
        assert first["error"]["kind"] == "outcome_unknown"
        asked = await agent.call("create_call", **placing())
        assert asked["outcome"] == "confirmation_required"
        assert "may ring twice" in asked["confirmation"]["preview"]
        assert len(upstream.changes) == 1
        token = asked["confirmation"]["token"]
        done = await agent.call("create_call", **placing(confirmation_token=token))
    assert done["outcome"] == "done"
    assert len(upstream.changes) == 2


async def test_a_call_to_another_number_needs_no_extra_confirmation() -> None:
    nothing = answer(200, page())
    script: list[Step] = [drop, nothing, nothing, nothing, answer(201, placed())]
    async with scripted(*script) as (_, agent):
        await agent.call("create_call", **placing())
        other = await agent.call("create_call", **placing(to="+15005550206"))
    assert other["outcome"] == "done"


@pytest.mark.parametrize(
    "other", [{"timeout": 60}, {"twiml": "<Response/>"}, {"account_sid": ACCOUNT}]
)
async def test_a_different_call_to_the_same_number_needs_a_confirmation(
    other: dict[str, object],
) -> None:
    nothing = answer(200, page())
    async with scripted(drop, nothing, nothing, nothing, answer(201, placed())) as (
        upstream,
        agent,
    ):
        await agent.call("create_call", **placing())
        asked = await agent.call("create_call", **placing(**other))
    assert asked["outcome"] == "confirmation_required"
    assert "may ring twice" in asked["confirmation"]["preview"]
    assert len(upstream.changes) == 1


async def test_a_deletion_is_done_if_the_record_has_gone() -> None:
    async with scripted(drop, GONE) as (upstream, agent):
        outcome = await agent.call("delete_call", sid=SID)
    assert outcome["deleted"] == SID
    assert outcome["recovered"] is True
    assert len(upstream.changes) == 1


async def test_a_hang_up_is_done_if_the_call_has_ended() -> None:
    async with scripted(drop, answer(200, call(status="completed"))) as (upstream, agent):
        outcome = await agent.call("update_call", **HANG_UP)
    assert outcome["call"]["status"] == "completed"
    assert outcome["recovered"] is True
    assert len(upstream.changes) == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "status", "told"),
    [
        ("delete_call", {"sid": SID}, "completed", "the record still exists"),
        ("update_call", HANG_UP, "in-progress", "the call is still in progress"),
    ],
)
async def test_a_change_that_failed_in_the_api_and_that_a_lookup_does_not_find_did_not_happen(
    tool: str, arguments: dict[str, object], status: str, told: str
) -> None:
    async with scripted(answer(500), answer(200, call(status=status))) as (upstream, agent):
        outcome = await agent.call(tool, **arguments)
    error = outcome["error"]
    assert (error["kind"], error["retryable"], error["http_status"]) == ("not_done", True, 500)
    assert error["message"] == f"This did not take effect: the API returned 500, and {told}."
    assert len(upstream.changes) == 1


async def test_a_call_that_may_be_an_earlier_lost_one_is_not_taken_for_this_one() -> None:
    script = [drop, answer(400), drop, answer(200, page(placed()))]
    async with scripted(*script) as (_, agent):
        first = await agent.call("create_call", **placing())
        second = await agent.confirm("create_call", **placing(timeout=20))
    assert first["error"]["kind"] == "outcome_unknown"
    assert second["error"]["kind"] == "outcome_unknown"


async def test_a_call_placed_before_a_restart_is_not_taken_for_the_lost_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    before = placed()
    async with scripted(answer(201, before), calls_mcp_state_url=url) as (_, agent):
        first = await agent.call("create_call", **placing())
    listed = answer(200, page(before))
    async with scripted(drop, listed, calls_mcp_state_url=url) as (_, agent):
        second = await agent.call("create_call", **placing(timeout=20))
    assert first["outcome"] == "done"
    assert second["error"]["kind"] == "outcome_unknown"


async def test_the_deadline_bounds_a_change_and_the_search_for_it_together() -> None:
    async with scripted(hang, deadline=1.5) as (upstream, agent):
        with anyio.fail_after(5):
            outcome = await agent.call("create_call", **placing())
    assert outcome["error"]["kind"] == "outcome_unknown"
    assert upstream.methods == ["POST", "GET"]
