"""Every attempt to change something is recorded, whatever interrupts it."""

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from mcp import Client, StdioServerParameters

from calls_mcp.audit.verification import verify
from calls_mcp.emulator import Emulator
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from tests.audit_records import records_in
from tests.harness import (
    TALKS_FOR_AN_HOUR,
    Agent,
    User,
    access_to,
    decline,
    open_harness,
    placing,
    structured,
)
from tests.process import environment
from tests.storage.redis_server import RedisServer
from tests.untrusted_text import TEXTS, invisible, unquoted
from tests.upstream import SID, Upstream, answer, call, hang, scripted

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("41")
async def test_a_confirmed_change_has_records_of_the_request_of_the_sending_and_of_the_result(
    tmp_path: Path,
) -> None:
    file = tmp_path / "audit.db"
    async with (
        open_harness(calls_mcp_audit_database=file, calls_mcp_audit_numbers="whole") as harness,
        harness.connect() as agent,
    ):
        sid = await agent.place()
    asked, before, after = records_in(file)
    assert [asked["phase"], before["phase"], after["phase"]] == ["decided", "before", "after"]
    assert asked["decision"] == "asked"
    assert before["decision"] == "allowed"
    assert before["confirmed_by"] == "token"
    assert before["rule"] == "confirm.place"
    assert before["principal"] == "tester"
    assert before["arguments"]["to"] == TALKS_FOR_AN_HOUR
    assert before["arguments"]["twiml"].startswith("sha256:")
    assert (after["outcome"], after["sid"], after["id"]) == ("done", sid, before["id"])
    report = await anyio.to_thread.run_sync(verify, file)
    assert report.is_intact


async def test_canceling_a_call_in_progress_without_confirmation_says_that_it_has_not_ended() -> (
    None
):
    async with open_harness(calls_mcp_confirm="none") as harness, harness.connect() as agent:
        placed = await agent.call("create_call", **placing())
        harness.clock.advance(10)
        canceling = {"sid": placed["call"]["sid"], "status": "canceled"}
        outcome = await agent.call("update_call", **canceling)
    assert outcome["warnings"] == ["the call has not ended: it is in-progress"]


async def test_a_denial_a_forged_token_and_a_rejection_by_the_api_are_recorded(
    tmp_path: Path,
) -> None:
    file = tmp_path / "audit.db"
    async with open_harness(calls_mcp_audit_database=file) as harness:
        async with harness.connect(user=User(decline)) as agent:
            await agent.call("create_call", **placing())
        async with harness.connect() as agent:
            await agent.call("create_call", **placing(confirmation_token="yes"))
            await agent.confirm("create_call", **placing(to="+15005550003"))
    told = [(r["phase"], r.get("decision", ""), r.get("error_kind", "")) for r in records_in(file)]
    assert told == [
        ("decided", "asked", ""),
        ("decided", "declined", ""),
        ("decided", "refused", "invalid_confirmation"),
        ("decided", "asked", ""),
        ("before", "allowed", ""),
        ("after", "", "rejected"),
    ]
    assert records_in(file)[1]["confirmed_by"] == "elicitation"
    assert records_in(file)[-1]["http_status"] == 400


@pytest.mark.requirement("41")
async def test_changes_are_refused_and_reads_work_while_records_cannot_be_written(
    tmp_path: Path,
) -> None:
    async with open_harness(calls_mcp_audit_database=tmp_path / "gone" / "audit.db") as harness:
        async with harness.connect() as agent:
            refused = await agent.call("create_call", **placing())
            read = await agent.call("list_calls")
        assert refused["error"]["kind"] == "audit_unavailable"
        assert read["outcome"] == "done"
        assert harness.changes == []


async def test_a_replay_that_cannot_be_recorded_reports_the_first_outcome(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    async with (
        open_harness(calls_mcp_audit_database=folder / "audit.db") as harness,
        harness.connect() as agent,
    ):
        asked = await agent.call("create_call", **placing())
        arguments = placing(confirmation_token=asked["confirmation"]["token"])
        first = await agent.call("create_call", **arguments)
        folder.rename(tmp_path / "gone")
        again = await agent.call("create_call", **arguments)
    assert again["call"] == first["call"]
    assert again["warnings"][-1] == "this outcome could not be written to the audit log"


@pytest.mark.requirement("03")
async def test_a_confirmation_survives_a_restart(shared_url: str) -> None:
    url = shared_url
    async with open_harness(calls_mcp_state_url=url) as one, one.connect() as agent:
        asked = await agent.call("create_call", **placing())
    token = asked["confirmation"]["token"]
    async with open_harness(calls_mcp_state_url=url) as two, two.connect() as agent:
        first = await agent.call("create_call", **placing(confirmation_token=token))
        second = await agent.call("create_call", **placing(confirmation_token=token))
        assert len(two.changes) == 1
    assert first["outcome"] == "done"
    assert second["call"] == first["call"]


async def test_a_client_that_cancels_after_the_request_was_sent_does_not_affect_the_outcome(
    tmp_path: Path,
) -> None:
    file = tmp_path / "audit.db"
    async with open_harness(calls_mcp_audit_database=file) as harness, harness.connect() as agent:
        asked = await agent.call("create_call", **placing())
        token = asked["confirmation"]["token"]
        arguments = placing(confirmation_token=token)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: agent.call("create_call", **arguments))
            while not harness.changes:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        again = await agent.call("create_call", **arguments)
        assert again["outcome"] == "done"
        assert len(harness.changes) == 1
    records = records_in(file)
    assert [r["phase"] for r in records] == ["decided", "before", "after", "decided"]
    assert [r.get("decision") for r in records] == ["asked", "allowed", None, "replayed"]


@pytest.mark.process
@pytest.mark.requirement("02", "03")
async def test_a_hundred_uses_of_one_token_by_four_processes_place_one_call(
    tmp_path: Path, shared_url: str
) -> None:
    outcomes: list[dict[str, Any]] = []
    async with Emulator() as emulator, AsyncExitStack() as stack:
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "calls_mcp"],
            env=environment(
                emulator.base_url,
                CALLS_MCP_STATE_URL=shared_url,
                CALLS_MCP_AUDIT_DATABASE=str(tmp_path / "audit.db"),
            ),
        )
        agents = [Agent(await stack.enter_async_context(Client(server))) for _ in range(4)]
        asked = await agents[0].call("create_call", **placing())
        arguments = placing(confirmation_token=asked["confirmation"]["token"])

        async def use(agent: Agent) -> None:
            outcomes.append(await agent.call("create_call", **arguments))

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(use, agents[number % 4])
        placed = [entry for entry in emulator.requests if entry.method == "POST"]
    assert len(placed) == 1
    assert len({outcome["call"]["sid"] for outcome in outcomes}) == 1
    assert len(outcomes) == 100
    report = await anyio.to_thread.run_sync(verify, tmp_path / "audit.db")
    assert report.is_intact
    assert report.records == 1 + 2 + 99


async def test_a_use_interrupted_before_sending_is_reported_to_the_next_use(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    live = answer(200, call(status="in-progress"))
    hanging_up: dict[str, object] = {"sid": SID, "status": "completed"}
    async with scripted(live, hang, calls_mcp_state_url=url, calls_mcp_confirm="all") as (
        upstream,
        agent,
    ):
        asked = await agent.call("update_call", **hanging_up)
        arguments = hanging_up | {"confirmation_token": asked["confirmation"]["token"]}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: agent.call("update_call", **arguments))
            while len(upstream.requests) < 2:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(10):
            again = await agent.call("update_call", **arguments)
        assert upstream.changes == []
    assert again["outcome"] == "expired"
    assert "was interrupted" in again["reason"]


async def test_a_used_token_of_a_retryable_failure_gets_a_hint_for_a_new_preview() -> None:
    async with scripted(answer(429, {"code": 20429}), calls_mcp_confirm="all") as (
        _,
        agent,
    ):
        error = (await agent.confirm("create_call", **placing()))["error"]
        unconfirmed = (await agent.call("fetch_call", sid=SID))["error"]
    assert error["kind"] == unconfirmed["kind"] == "rate_limited"
    assert error["retryable"] is False
    assert "without confirmation_token" in error["hint"]
    assert unconfirmed["retryable"] is True


async def test_a_user_who_was_asked_by_their_client_can_be_asked_again() -> None:
    async with Upstream(answer(429, {"code": 20429})) as upstream:
        settings = load_settings({})
        async with Runtime(settings, access_to(upstream.base_url)) as runtime:
            server = build_server(runtime)
            async with Client(server, elicitation_callback=User(), cache=None) as client:
                error = (await Agent(client).call("create_call", **placing()))["error"]
    assert error["retryable"] is True
    assert "confirmation_token" not in error["hint"]


@pytest.mark.requirement("41")
async def test_the_record_has_the_status_and_the_request_id_of_the_api_and_the_trace(
    tmp_path: Path,
) -> None:
    file, trace_id = tmp_path / "audit.db", "4bf92f3577b34da6a3ce929d0e0e4736"
    script = answer(201, call(), headers={"Twilio-Request-Id": "RQ123"})
    async with scripted(script, calls_mcp_audit_database=file) as (_, agent):
        meta: dict[str, Any] = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
        await agent.client.call_tool("create_call", placing(), meta=cast("Any", meta))
    before, after = records_in(file)
    assert (after["http_status"], after["request_id"]) == (201, "RQ123")
    assert before["trace_id"] == after["trace_id"] == trace_id


async def test_send_digits_is_not_recorded(tmp_path: Path) -> None:
    file = tmp_path / "audit.db"
    async with open_harness(calls_mcp_audit_database=file) as harness, harness.connect() as agent:
        await agent.place(send_digits="ww4929123412341234#")
    assert b"49291234" not in file.read_bytes()
    assert records_in(file)[0]["arguments"]["send_digits"].startswith("sha256:")


async def test_a_recovered_store_is_used_again(shared_redis: RedisServer, redis_url: str) -> None:
    async with open_harness(calls_mcp_state_url=redis_url) as harness, harness.connect() as agent:
        await agent.place()
        shared_redis.stop()
        try:
            refused = await agent.call("create_call", **placing())
            read = await agent.call("list_calls")
        finally:
            shared_redis.start()
        await agent.place()
        assert len(harness.changes) == 2
    assert refused.get("error", {}).get("kind") == "store_unavailable", refused
    assert read.get("count") == 1, read


async def test_a_call_to_another_number_than_requested_has_a_warning() -> None:
    async with scripted(answer(201, call(to="+15005550300"))) as (_, agent):
        outcome = await agent.call("create_call", **placing())
    assert outcome["warnings"][-1] == (
        'the API reports that it is calling "+15005550300", not the number in `to`'
    )


@pytest.mark.requirement("12")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_the_number_that_the_api_calls_is_quoted_and_marked_as_untrusted(text: str) -> None:
    async with scripted(answer(201, call(to=f"+1500{text}"))) as (_, agent):
        result = await agent.client.call_tool("create_call", placing())
    for warning in structured(result)["warnings"]:
        assert not invisible(warning)
        assert "INSTRUCTIONS" not in unquoted(warning)
    assert "warnings" in (result.meta or {})["calls-mcp/untrusted"]


async def test_a_new_call_answered_without_its_account_is_done() -> None:
    async with scripted(answer(201, call(account_sid=None))) as (_, agent):
        outcome = await agent.call("create_call", **placing())
    assert outcome["call"]["sid"] == SID
