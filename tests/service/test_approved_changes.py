"""Changes that run after the operator's approval, without another request of the client."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from calls_mcp.errors import NotAttempted
from calls_mcp.guard.approval_requests import Heartbeat
from calls_mcp.guard.operator_decisions import Approvals, Progress, open_approvals
from calls_mcp.service.approved_changes import ApprovedChanges
from calls_mcp.service.runtime import Runtime
from calls_mcp.storage.records import ApprovalRequest
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Request
from tests.guard.test_operator_decisions import Scene, scene
from tests.guard.test_policy import policy
from tests.harness import NEVER, Agent, open_harness, placing
from tests.http.service import by_tokens, entry, open_service, write

pytestmark = pytest.mark.anyio

SOON = 0.01  # seconds
REPLAYED = "the change was sent when the operator approved it"


async def outcome_of(approvals: Approvals, request: ApprovalRequest) -> Progress:
    """Wait until a request has an outcome."""
    found = await approvals.find(request.identifier)
    assert found
    progress = await approvals.progress(found)
    with anyio.fail_after(30):
        while progress.outcome is None:
            await anyio.sleep(SOON)
            progress = await approvals.progress(found)
    return progress


async def approved(here: Scene) -> tuple[ApprovalRequest, Progress]:
    """Approve the pending request, and wait for its outcome."""
    request = await here.waiting()
    await here.decide(approve=True)
    return request, await outcome_of(here.approvals, request)


async def test_an_approved_call_is_placed_without_another_request(tmp_path: Path) -> None:
    async with scene(tmp_path, poll=SOON) as here, here.harness.connect() as agent:
        assert (await agent.call("create_call", **placing()))["outcome"] == "awaiting_operator"
        request, progress = await approved(here)
        (call,) = here.harness.emulator.calls.all()
        assert progress.text == f"Done ({call.sid})."
        told = [
            (each.get("decision"), each.get("outcome"), each.get("approval_id"))
            for each in here.recorded
        ]
        assert told == [
            ("asked", None, request.identifier),
            ("approved", None, request.identifier),
            ("allowed", None, request.identifier),
            (None, "done", None),
        ]
    assert len(here.harness.changes) == 1


async def test_it_is_placed_after_the_client_has_disconnected(tmp_path: Path) -> None:
    async with scene(tmp_path, poll=SOON) as here:
        async with here.harness.connect() as agent:
            await agent.call("create_call", **placing())
        await approved(here)
    assert len(here.harness.changes) == 1


async def test_the_next_request_gets_the_outcome_and_the_one_after_it_asks_again(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, poll=SOON) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        await approved(here)
        (call,) = here.harness.emulator.calls.all()
        here.harness.clock.advance(1700)  # of twice 900 s
        told = await agent.call("create_call", **placing())
        assert (told["outcome"], told["call"]["sid"]) == ("done", call.sid)
        assert any(REPLAYED in warning for warning in told["warnings"])
        again = await agent.call("create_call", **placing())
        assert again["outcome"] == "awaiting_operator"
    assert len(here.harness.changes) == 1


async def test_an_outcome_that_nobody_fetched_in_time_does_not_block_the_same_change(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, poll=SOON) as here, here.harness.connect() as agent:
        first = await agent.call("create_call", **placing())
        await approved(here)
        here.harness.clock.advance(1801)
        second = await agent.call("create_call", **placing())
        assert second["outcome"] == "awaiting_operator"
        assert second["confirmation"]["approval"] != first["confirmation"]["approval"]


@pytest.mark.parametrize(
    "store", ["sqlite_url", pytest.param("redis_url", marks=pytest.mark.services)]
)
async def test_a_call_is_placed_once_however_many_repeats_arrive_at_two_replicas(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(store)
    told: list[dict[str, Any]] = []
    shared: dict[str, Any] = {"calls_mcp_state_url": url, "calls_mcp_operator_wait": "5"}
    async with (
        scene(tmp_path, poll=SOON, **shared) as here,
        open_harness(
            calls_mcp_policy=here.harness.runtime.settings.guard.policy,
            calls_mcp_audit_database=tmp_path / "audit2.db",
            poll=SOON,
            **shared,
        ) as other,
        here.harness.connect() as one,
        other.connect() as two,
    ):

        async def repeat(agent: Agent) -> None:
            told.append(await agent.call("create_call", **placing()))

        await repeat(one)
        filed = await here.waiting()
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(repeat, one)
                tasks.start_soon(repeat, two)
                if number == 25:
                    tasks.start_soon(here.decide_filed, filed)
        await outcome_of(here.approvals, filed)
        calls = [*here.harness.emulator.calls.all(), *other.emulator.calls.all()]
    assert len(calls) == 1
    outcomes = Counter(each["outcome"] for each in told)
    assert {*outcomes} <= {"done", "awaiting_operator"}
    assert {each["call"]["sid"] for each in told if "call" in each} <= {calls[0].sid}


async def test_a_repeat_that_saw_no_decision_does_not_run_the_change_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, running, repeated = anyio.Event(), anyio.Event(), anyio.Event()
    require_ready, add = TwilioClient.require_ready, ApprovedChanges.add

    def wait_for_repeat(client: TwilioClient, request: Request) -> None:
        running.set()
        if not repeated.is_set():
            raise NotAttempted("Nothing was sent: the API can't be reached.", "Try again.")
        require_ready(client, request)

    async def add_late(self: ApprovedChanges, *change: Any) -> None:  # noqa: ANN401
        asked.set()
        await running.wait()
        await add(self, *change)
        repeated.set()

    async with scene(tmp_path, poll=SOON) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        first = await here.waiting()
        await agent.call("create_call", **placing(to="+15005550206"))
        (second,) = [each for each in await here.approvals.pending() if each != first]
        monkeypatch.setattr(TwilioClient, "require_ready", wait_for_repeat)
        monkeypatch.setattr(ApprovedChanges, "add", add_late)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(agent.call, "create_call", **placing()))
            await asked.wait()
            await here.decide_filed(first)
        await outcome_of(here.approvals, first)
        await here.decide_filed(second)
        await outcome_of(here.approvals, second)
    assert len(here.harness.changes) == 2


async def test_the_first_requests_of_a_server_share_its_heartbeats_even_if_simultaneous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, arrived, stops = anyio.Event(), list[None](), list[None]()
    run_when_approved, stop = Runtime.run_when_approved, Heartbeat.stop

    async def run_together(self: Runtime, *change: Any) -> None:  # noqa: ANN401
        arrived.append(None)
        if len(arrived) == 2:
            both.set()
        await both.wait()
        await run_when_approved(self, *change)

    async def count_stop(self: Heartbeat) -> None:
        stops.append(None)
        await stop(self)

    monkeypatch.setattr(Runtime, "run_when_approved", run_together)
    monkeypatch.setattr(Heartbeat, "stop", count_stop)
    async with (
        scene(tmp_path) as here,
        here.harness.connect() as agent,
        anyio.create_task_group() as tasks,
    ):
        for timeout in (5, 6):
            tasks.start_soon(partial(agent.call, "create_call", **placing(timeout=timeout)))
    assert len(stops) == 1


async def test_a_denied_or_expired_request_never_runs(tmp_path: Path) -> None:
    async with scene(tmp_path, poll=SOON) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        await here.decide(approve=False)
        await agent.call("create_call", **placing(timeout=5))
        here.harness.clock.advance(900)
        assert (await agent.call("create_call", **placing()))["outcome"] == "declined"
        assert (await agent.call("create_call", **placing(timeout=5)))["outcome"] == "expired"
        await agent.call("create_call", **placing(timeout=6))
        await approved(here)  # so the others were seen, too
    assert len(here.harness.changes) == 1


async def test_a_change_of_a_stopped_process_runs_when_the_client_retries(tmp_path: Path) -> None:
    async with scene(tmp_path, poll=SOON) as here:
        async with here.harness.connect() as agent:
            await agent.call("create_call", **placing())
        request = await here.waiting()
    async with scene(tmp_path, poll=SOON) as here, here.harness.connect() as agent:
        assert "The server that asked has stopped" in (await here.approvals.progress(request)).text
        await here.decide(approve=True)
        decided = await here.approvals.find(request.identifier)
        assert decided
        progress = await here.approvals.result(decided, 30)
        assert progress.text == "It runs when the agent retries."
        assert here.harness.changes == []
        assert (await agent.call("create_call", **placing()))["outcome"] == "done"
    assert len(here.harness.changes) == 1


async def test_a_process_that_was_killed_is_noticed(tmp_path: Path) -> None:
    async with scene(tmp_path, poll=NEVER) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        request = await here.waiting()
        assert (await here.approvals.progress(request)).text == ""
        here.harness.clock.advance(10)
        assert "has stopped" in (await here.approvals.progress(request)).text
        await here.decide(approve=True)
        decided = await here.approvals.find(request.identifier)
        assert decided
        here.harness.clock.advance(10)
        assert (await here.approvals.progress(decided)).text == "It runs when the agent retries."


async def test_nothing_starts_after_the_server_begins_to_stop(tmp_path: Path) -> None:
    async with scene(tmp_path, poll=SOON) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        await here.harness.runtime.finish(anyio.current_time())
        await here.decide(approve=True)
    async with scene(tmp_path) as here, here.harness.connect() as agent:
        assert here.harness.changes == []
        assert (await agent.call("create_call", **placing()))["outcome"] == "done"


@pytest.mark.parametrize("is_over", [True, False])
async def test_an_unreachable_api_is_tried_again_for_a_minute(
    is_over: bool,  # noqa: FBT001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scene(tmp_path, poll=SOON) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        tried, attempts = anyio.Event(), list[Request]()

        def refuse(_client: TwilioClient, request: Request) -> None:
            attempts.append(request)
            if len(attempts) > 1:
                tried.set()
            if is_over or len(attempts) < 3:
                raise NotAttempted("Nothing was sent: the API can't be reached.", "Try again.")

        monkeypatch.setattr(TwilioClient, "require_ready", refuse)
        request = await here.waiting()
        await here.decide(approve=True)
        with anyio.fail_after(30):
            await tried.wait()
        here.harness.clock.advance(60 if is_over else 3)
        progress = await outcome_of(here.approvals, request)
        assert progress.outcome
        assert progress.outcome.error_kind == ("unreachable" if is_over else "")
    assert len(here.harness.changes) == (0 if is_over else 1)


LONG: dict[str, Any] = {"poll": SOON, "calls_mcp_operator_ttl": "86400"}


async def withdrawn(here: Scene, request: ApprovalRequest) -> str:
    """Wait until the server withdraws a request. Return the recorded reason."""
    recorded = list[dict[str, Any]]()
    with anyio.fail_after(30):
        while len(recorded) < 2:  # the record comes last
            await anyio.sleep(SOON)
            recorded = [r for r in here.recorded if r.get("approval_id") == request.identifier]
    assert [each["decision"] for each in recorded] == ["asked", "withdrawn"]
    assert (recorded[1]["decided_by"], bool(recorded[1]["reason"])) == ("the server", True)
    found = await here.approvals.find(request.identifier)
    assert found
    assert found.decision
    assert (found.decision.word, found.decision.by) == ("withdrawn", "the server")
    return found.decision.reason


async def test_a_request_about_a_call_that_has_ended_is_withdrawn(tmp_path: Path) -> None:
    rules = 'hang_up = "operator"'
    async with scene(tmp_path, rules, **LONG) as here, here.harness.connect() as agent:
        sid = await agent.place()
        here.harness.clock.advance(60)
        ending = {"sid": sid, "status": "completed"}
        assert (await agent.call("update_call", **ending))["outcome"] == "awaiting_operator"
        request = await here.waiting()
        here.harness.clock.advance(3700)
        reason = await withdrawn(here, request)
        assert "it is completed" in reason
        told = await agent.call("update_call", **ending)
        assert told["outcome"] == "expired"
        assert told["reason"].startswith(f"This request was withdrawn by the server. {reason}")
        assert here.recorded[-1]["decision"] == "expired"
    assert [each.method for each in here.harness.changes] == ["POST"]


async def test_a_request_about_a_record_that_is_gone_is_withdrawn(tmp_path: Path) -> None:
    async with (
        scene(tmp_path, 'delete = "operator"', **LONG) as here,
        here.harness.connect() as agent,
    ):
        sid = await agent.place()
        here.harness.clock.advance(3700)
        assert (await agent.call("delete_call", sid=sid))["outcome"] == "awaiting_operator"
        request = await here.waiting()
        here.harness.emulator.reset()
        here.harness.clock.advance(20)
        reason = await withdrawn(here, request)
        assert reason == "The record of the call no longer exists."


async def test_a_call_outside_calling_hours_is_withdrawn(tmp_path: Path) -> None:
    rules = 'place = "operator"\n[hours]\ndaily = "08:00-21:00"\noutside = "deny"'
    async with scene(tmp_path, rules, **LONG) as here, here.harness.connect() as agent:
        here.harness.clock.advance(10 * 3600)  # 09:13 in Berlin
        call = placing(to="+4930123456")
        assert (await agent.call("create_call", **call))["outcome"] == "awaiting_operator"
        request = await here.waiting()
        here.harness.clock.advance(12 * 3600)
        assert "(hours.outside)" in await withdrawn(here, request)
    assert here.harness.changes == []


async def test_a_request_that_is_not_obsolete_stays_pending(tmp_path: Path) -> None:
    rules = 'hang_up = "operator"'
    async with scene(tmp_path, rules, poll=SOON) as here, here.harness.connect() as agent:
        sid = await agent.place()
        here.harness.clock.advance(60)
        await agent.call("update_call", sid=sid, status="completed")
        reads = len(here.harness.reads)
        here.harness.clock.advance(20)
        told = await agent.call("update_call", sid=sid, status="completed")  # waits
        assert told["outcome"] == "awaiting_operator"
        assert len(here.harness.reads) == reads + 1


TOKEN = "t" * 40


def revoked(_folder: Path) -> str:
    return ""


def without_scope(_folder: Path) -> str:
    return entry(TOKEN, "ann", "calls:read")


def of_another(_folder: Path) -> str:
    return entry(TOKEN, "eve", "calls:place")


def with_policy(folder: Path) -> str:
    own = policy(
        folder, '[confirm]\nplace = "operator"\n[destinations]\nallow_countries = ["DE"]\n'
    )
    return entry(TOKEN, "ann", "calls:place") + f'[principals.ann]\npolicy = "{own}"\n'


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (revoked, "invalid_confirmation"),
        (without_scope, "invalid_confirmation"),
        (of_another, "invalid_confirmation"),
        (with_policy, "policy_denied"),
    ],
)
async def test_a_change_does_not_run_if_its_principal_may_no_longer_request_it(
    change: Callable[[Path], str], kind: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "principals.toml", entry(TOKEN, "ann", "calls:place"))
    settings = {
        "calls_mcp_confirm": "operator",
        "calls_mcp_state_url": f"sqlite:///{tmp_path}/state.db",
        "poll": SOON,
    }
    async with open_service(token=TOKEN, **by_tokens(file, **settings)) as service:
        harness = service.harness
        async with service.connect() as agent:
            await agent.call("create_call", **placing())
        async with open_approvals(harness.runtime.settings, harness.clock) as approvals:
            (request,) = await approvals.pending()
            write(file, change(tmp_path))
            await approvals.decide(request, approve=True, by="bob")
            progress = await outcome_of(approvals, request)
        assert progress.outcome
        assert progress.outcome.error_kind == kind
        assert harness.changes == []
