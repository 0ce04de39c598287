"""Each tool from end to end."""

from typing import Literal

import pytest

from tests.harness import (
    ACCOUNT,
    CALLER,
    ERAS,
    TALKS_FOR_AN_HOUR,
    TWIML,
    Harness,
    open_harness,
    placing,
)

pytestmark = pytest.mark.anyio

Era = Literal["auto", "legacy"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_is_placed_found_followed_changed_ended_and_deleted(
    harness: Harness, era: Era
) -> None:
    async with harness.connect(era) as agent:
        placed = await agent.confirm("create_call", **placing(timeout=20))
        sid = placed["call"]["sid"]
        assert placed["call"] == {
            "sid": sid,
            "status": "queued",
            "live": True,
            "direction": "outbound-api",
            "from": CALLER,
            "to": TALKS_FOR_AN_HOUR,
            "created_at": "2023-11-14T22:13:20Z",
            "queue_ms": 1000,
            "currency": "USD",
            "account_sid": ACCOUNT,
        }

        listed = await agent.call("list_calls", to=TALKS_FOR_AN_HOUR)
        assert [call["sid"] for call in listed["calls"]] == [sid]
        assert listed["count"] == 1

        harness.clock.advance(10)
        followed = await agent.call("fetch_call", sid=sid)
        assert followed["call"]["status"] == "in-progress"
        assert followed["call"]["live"] is True

        redirected = await agent.confirm("update_call", sid=sid, url="https://example.com/bye")
        assert redirected["call"]["live"] is True
        ended = await agent.confirm("update_call", sid=sid, status="completed")
        assert ended["call"]["status"] == "completed"
        assert ended["call"]["duration_seconds"] == 6

        deleted = await agent.confirm("delete_call", sid=sid)
        assert deleted == {"outcome": "done", "deleted": sid}
        gone = await agent.call("fetch_call", sid=sid)
        assert gone["error"]["kind"] == "not_found"
        assert gone["error"]["http_status"] == 404
        assert gone["error"]["code"] == 20404

    effects = [(entry.method, dict(entry.form), entry.status) for entry in harness.changes]
    assert effects == [
        (
            "POST",
            {
                "To": TALKS_FOR_AN_HOUR,
                "From": CALLER,
                "Twiml": TWIML,
                "Timeout": "20",
            },
            201,
        ),
        ("POST", {"Url": "https://example.com/bye"}, 200),
        ("POST", {"Status": "completed"}, 200),
        ("DELETE", {}, 204),
    ]


async def test_ignored_arguments_are_named_in_the_preview_and_the_result(
    harness: Harness,
) -> None:
    arguments = placing(url="https://example.com/voice", trim="do-not-trim")
    expected = ["twiml is ignored because url is given", "trim has no effect without record"]
    async with harness.connect() as agent:
        asked = await agent.call("create_call", **arguments)
        done = await agent.confirm("create_call", **arguments)
    assert asked["warnings"] == expected
    assert done["outcome"] == "done"
    assert done["warnings"] == expected


async def test_in_the_sandbox_every_result_is_marked(harness: Harness) -> None:
    async with open_harness(sandbox=True) as sandbox, sandbox.connect() as agent:
        asked = await agent.call("create_call", **placing())
        done = await agent.confirm("create_call", **placing())
        wrong = await agent.call("fetch_call", sid="CA1")
        listed = await agent.read("list_calls")
    async with harness.connect() as agent:
        real = await agent.call("list_calls")
    assert asked["sandbox"] is done["sandbox"] is wrong["sandbox"] is True
    assert listed.startswith("[sandbox: no real calls]")
    assert "sandbox" not in real
