"""Changes that an operator approves or denies."""

import re
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from calls_mcp.audit.verification import verify
from calls_mcp.errors import StoreUnavailable
from calls_mcp.guard.approval_requests import ApprovalRequests
from calls_mcp.guard.operator_decisions import Approvals, Decided, open_approvals
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import ApprovalRequest, StorageOptions
from calls_mcp.storage.sqlite import SqliteStorage
from calls_mcp.tools.outcome import ReportProgress
from tests.audit_records import records_in
from tests.guard.test_policy import policy
from tests.harness import ERAS, NEVER, Agent, Era, Harness, User, decline, open_harness, placing

pytestmark = pytest.mark.anyio


@dataclass
class Scene:
    """A server whose changes need an operator, and the operator's view of them."""

    harness: Harness
    approvals: Approvals
    record: Path

    async def waiting(self) -> ApprovalRequest:
        """Return the only pending request."""
        (request,) = await self.approvals.pending()
        return request

    async def decide(self, *, approve: bool, reason: str = "") -> Decided | None:
        return await self.approvals.decide(
            await self.waiting(), approve=approve, by="bob", reason=reason
        )

    async def decide_filed(self, request: ApprovalRequest) -> None:
        await self.approvals.decide(request, approve=True, by="bob")

    @property
    def recorded(self) -> list[dict[str, Any]]:
        return records_in(self.record)


@asynccontextmanager
async def scene(
    folder: Path, rules: str = 'place = "operator"', poll: float = NEVER, **settings: object
) -> AsyncGenerator[Scene]:
    record = folder / "audit.db"
    shared: dict[str, Any] = {
        "calls_mcp_state_url": f"sqlite:///{folder}/state.db",
        "calls_mcp_audit_database": record,
        **settings,
    }
    file = policy(folder, f"[confirm]\n{rules}\n[caps]\nsame_number_seconds = 0\n")
    async with (
        open_harness(**shared, calls_mcp_policy=file, poll=poll) as harness,
        open_approvals(harness.runtime.settings, harness.clock) as approvals,
    ):
        yield Scene(harness, approvals, record)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("user", [None, User()], ids=["alone", "with a user"])
async def test_an_approved_call_is_placed_once(era: Era, user: User | None, tmp_path: Path) -> None:
    async with scene(tmp_path) as here, here.harness.connect(era, user) as agent:
        asked = await agent.call("create_call", **placing())
        assert asked["outcome"] == "awaiting_operator"
        assert "token" not in asked["confirmation"]
        waiting = await here.waiting()
        assert waiting.identifier == asked["confirmation"]["approval"]
        assert waiting.preview.text == asked["confirmation"]["preview"]
        assert (waiting.client, waiting.rule) == ("tester 1", "confirm.place")
        assert here.harness.changes == []
        decided = await here.decide(approve=True)
        assert decided
        assert decided.ours
        done = await agent.call("create_call", **placing())
        assert done["outcome"] == "done"
        assert len(here.harness.changes) == 1
        again = await agent.call("create_call", **placing())
        assert again["outcome"] == "awaiting_operator"
        assert again["confirmation"]["approval"] != waiting.identifier
        told = [
            (each["decision"], each.get("decided_by"), each["approval_id"])
            for each in here.recorded
            if "decision" in each
        ]
        first = waiting.identifier
        assert told[:3] == [
            ("asked", None, first),
            ("approved", "bob", first),
            ("allowed", "bob", first),
        ]
    assert (await anyio.to_thread.run_sync(verify, here.record)).is_intact
    assert user is None or user.asked == []


async def test_a_waiting_retry_continues_when_the_operator_decides(tmp_path: Path) -> None:
    outcomes: list[dict[str, Any]] = []
    async with scene(tmp_path) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())

        async def repeat() -> None:
            outcomes.append(await agent.call("create_call", **placing()))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(repeat)
            await here.decide(approve=True)
        assert [outcome["outcome"] for outcome in outcomes] == ["done"] * 3
        assert len({outcome["call"]["sid"] for outcome in outcomes}) == 1
        assert len(here.harness.changes) == 1


async def test_waiting_for_the_operator_reports_progress_on_request(tmp_path: Path) -> None:
    said: list[str | None] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert total is None or progress <= total
        said.append(message)

    async with (
        scene(tmp_path, calls_mcp_operator_wait="0.3") as here,
        here.harness.connect() as agent,
    ):
        await agent.call("create_call", **placing())
        result = await agent.client.call_tool("create_call", placing(), progress_callback=note)
    assert result.structured_content
    assert result.structured_content["outcome"] == "awaiting_operator"
    assert {*said} == {"waiting for the operator"}
    assert [each["decision"] for each in here.recorded] == ["asked"]  # waiting decides nothing


async def test_a_denial_has_its_reason_and_is_final(tmp_path: Path) -> None:
    async with scene(tmp_path) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        await here.decide(approve=False, reason="not at\nnight")
        denied = await agent.call("create_call", **placing())
        assert denied["outcome"] == "declined"
        assert "not at night" in denied["reason"]
        assert (await agent.call("create_call", **placing()))["outcome"] == "awaiting_operator"
    assert here.harness.changes == []
    assert [each["decision"] for each in here.recorded] == [
        "asked",
        "denied",
        "denied",
        "asked",
    ]


async def test_an_undecided_request_expires(tmp_path: Path) -> None:
    async with (
        scene(tmp_path, calls_mcp_operator_ttl="60") as here,
        here.harness.connect() as agent,
    ):
        await agent.call("create_call", **placing())
        filed = await here.waiting()
        here.harness.clock.advance(60)
        assert await here.approvals.pending() == []
        assert await here.approvals.decide(filed, approve=True, by="bob") is None
        lapsed = await agent.call("create_call", **placing())
        assert lapsed["outcome"] == "expired"
        assert "confirmation_token" not in lapsed["reason"]
        assert here.recorded[-1]["decision"] == "expired"
        assert here.recorded[-1]["approval_id"] == filed.identifier
        assert (await agent.call("create_call", **placing()))["outcome"] == "awaiting_operator"
    assert here.harness.changes == []


async def test_an_unused_approval_expires(tmp_path: Path) -> None:
    async with (
        scene(tmp_path, calls_mcp_operator_ttl="60") as here,
        here.harness.connect() as agent,
    ):
        await agent.call("create_call", **placing())
        await here.decide(approve=True)
        here.harness.clock.advance(120)
        outcome = await agent.call("create_call", **placing())
        assert outcome["outcome"] in ("expired", "awaiting_operator")
    assert here.harness.changes == []


async def test_an_approval_can_be_used_until_twice_the_ttl_after_the_request(
    tmp_path: Path,
) -> None:
    async with (
        scene(tmp_path, calls_mcp_operator_ttl="14400") as here,
        here.harness.connect() as agent,
    ):
        await agent.call("create_call", **placing())
        await here.decide(approve=True)
        here.harness.clock.advance(28_000)
        await agent.call("create_call", **placing(timeout=30))  # a new request removes old ones
        assert (await agent.call("create_call", **placing()))["outcome"] == "done"


@pytest.mark.parametrize(
    ("approve", "words"),
    [
        (True, "The agent did not retry in time, so nothing happened."),
        (False, "The agent did not retry, so it did not see this."),
    ],
)
async def test_the_operator_sees_that_the_agent_did_not_retry(
    tmp_path: Path, words: str, *, approve: bool
) -> None:
    async with scene(tmp_path) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        request = await here.waiting()
        await here.decide(approve=approve)
        here.harness.clock.advance(2 * 900)
        decided = await here.approvals.find(request.identifier)
        assert decided
        assert (await here.approvals.progress(decided)).text == words


async def test_the_first_of_two_decisions_counts(tmp_path: Path) -> None:
    async with scene(tmp_path) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        filed = await here.waiting()
        decided: list[Decided | None] = []

        async def decide(number: int) -> None:
            name, approve = f"operator {number}", number % 2 == 0
            decided.append(await here.approvals.decide(filed, approve=approve, by=name))

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(decide, number)
        assert [each.ours for each in decided if each].count(True) == 1
        assert len({each.decision for each in decided if each}) == 1
        recorded = [each for each in here.recorded if each["phase"] == "decided"][1:]
        void = [each["decided_by"] for each in recorded if each["decision"] == "void"]
        (standing,) = [each for each in recorded if each["decided_by"] not in void]
        assert standing["decided_by"] == next(each.decision.by for each in decided if each)


async def test_a_decision_that_cannot_be_stored_is_recorded_as_void(tmp_path: Path) -> None:
    async with scene(tmp_path) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        filed = await here.waiting()
        with closing(sqlite3.connect(tmp_path / "state.db")) as broken:
            broken.execute("DROP TABLE approval_requests")
        with pytest.raises(StoreUnavailable):
            await here.approvals.decide(filed, approve=True, by="bob")
        assert [each["decision"] for each in here.recorded] == ["asked", "approved", "void"]
        reason = here.recorded[-1]["reason"]
        assert reason == "the state store failed, so it is unknown whether the decision counts"


async def test_an_approval_request_mentions_the_last_decision_about_the_same_change(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        await here.decide(approve=False)
        await agent.call("create_call", **placing())
        first = await agent.call("create_call", **placing())
        assert 'The same change was denied by "bob"' in first["confirmation"]["preview"]
        await here.decide(approve=True)
        sid = (await agent.call("create_call", **placing()))["call"]["sid"]
        here.harness.clock.advance(33)
        second = (await agent.call("create_call", **placing()))["confirmation"]["preview"]
        assert 'The same change was approved by "bob"' in second
        assert f"; it was done ({sid})." in second
        assert second == (await here.waiting()).preview.text


async def test_the_outcome_is_unknown_after_a_server_crashes_while_sending(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())
        identifier = (await here.waiting()).identifier
        await here.decide(approve=True)
        options = StorageOptions(clock=here.harness.clock)
        async with open_storage(f"sqlite:///{tmp_path}/state.db", options) as dying:
            assert await dying.claim_confirmation(identifier)
        here.harness.clock.advance(options.outcome_timeout)
        told = await agent.call("create_call", **placing())
        assert told["error"]["kind"] == "outcome_unknown"
        again = await agent.call("create_call", **placing())
        assert "it is unknown whether it was done" in again["confirmation"]["preview"]
    assert here.harness.changes == []


async def test_an_approval_just_before_the_expiry_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = ApprovalRequests.wait
    terms: dict[str, Any] = {"calls_mcp_operator_ttl": "60", "calls_mcp_operator_wait": "0"}
    async with scene(tmp_path, **terms) as here, here.harness.connect() as agent:
        await agent.call("create_call", **placing())

        async def wait_in_vain(
            requests: ApprovalRequests, request: ApprovalRequest, until: float, tell: ReportProgress
        ) -> ApprovalRequest:
            seen = await wait(requests, request, until, tell)
            await here.decide(approve=True)
            here.harness.clock.advance(60)
            return seen

        monkeypatch.setattr(ApprovalRequests, "wait", wait_in_vain)
        assert (await agent.call("create_call", **placing()))["outcome"] == "done"


async def test_a_request_that_could_not_be_stored_can_be_retried_immediately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> bool:
        raise StoreUnavailable

    async with scene(tmp_path) as here, here.harness.connect() as agent:
        with monkeypatch.context() as patched:
            patched.setattr(SqliteStorage, "add_request", fail)
            assert (await agent.call("create_call", **placing()))["outcome"] == "error"
        asked = await agent.call("create_call", **placing())
        assert asked["outcome"] == "awaiting_operator"


async def test_a_request_that_could_not_be_recorded_is_not_shown_to_the_operator(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as here, here.harness.connect() as agent:
        here.record.unlink(missing_ok=True)
        here.record.mkdir()
        asked = await agent.call("create_call", **placing())
        assert asked["error"]["kind"] == "audit_unavailable"
        assert list(await here.approvals.pending()) == []
        here.record.rmdir()
        asked = await agent.call("create_call", **placing())
        assert asked["outcome"] == "awaiting_operator"


async def test_a_token_does_not_replace_a_required_answer_of_the_user(tmp_path: Path) -> None:
    rules = 'place = "require_human"'
    async with scene(tmp_path, rules) as here, here.harness.connect(user=User()) as agent:
        told = await agent.call("create_call", **placing(), confirmation_token="made-up")
        assert "the client must ask its user" in told["error"]["message"]
        assert here.harness.changes == []


async def test_no_client_can_use_the_recorded_name_of_the_operator(tmp_path: Path) -> None:
    async with scene(tmp_path) as here, here.harness.connect(name="console: root") as agent:
        await agent.call("create_call", **placing())
        assert (await here.waiting()).binding.principal == "client console: root"


@pytest.mark.parametrize(
    ("name", "principal"),
    [
        ("Console: root", "client Console: root"),
        ("\uff43onsole : root", "client \uff43onsole : root"),
        ("console", "client console"),
        ("consoles", "consoles"),
        ("\u200b\nconsole: root", "client console: root"),
        ("a\nb\x1b[2K\u202e", "a b[2K"),
        ("x" * 10_000, "x" * 63 + "…"),
        ("\u2066\n", "anonymous"),
    ],
)
async def test_the_name_of_a_client_is_sanitized(name: str, principal: str, tmp_path: Path) -> None:
    async with scene(tmp_path) as here, here.harness.connect(name=name) as agent:
        await agent.call("create_call", **placing())
        assert (await here.waiting()).binding.principal == principal


async def test_an_approval_is_valid_only_for_its_arguments_and_principal(tmp_path: Path) -> None:
    other: list[tuple[str, dict[str, object]]] = [
        ("ann", {"to": "+15005550206"}),
        ("ann", {"timeout": 5}),
        ("eve", {}),
    ]
    async with scene(tmp_path) as here:
        async with here.harness.connect(name="ann") as agent:
            await agent.call("create_call", **placing())
        await here.decide(approve=True)
        for name, changed in other:
            async with here.harness.connect(name=name) as agent:
                asked = await agent.call("create_call", **placing(**changed))
                assert asked["outcome"] == "awaiting_operator"
    assert here.harness.changes == []


async def test_an_approval_expires_when_the_call_changes(tmp_path: Path) -> None:
    async with scene(tmp_path, 'hang_up = "operator"') as here, here.harness.connect() as agent:
        sid = await agent.place()
        here.harness.clock.advance(1)
        ending = {"sid": sid, "status": "completed"}
        assert (await agent.call("update_call", **ending))["outcome"] == "awaiting_operator"
        await here.decide(approve=True)
        here.harness.clock.advance(30)  # it is answered meanwhile
        outcome = await agent.call("update_call", **ending)
        assert outcome["outcome"] == "expired"
        (change,) = re.findall(r"The call has changed: .*?\.", outcome["reason"])
        assert change == (
            "The call has changed: it was ringing in the preview, and it is in progress."
        )


async def test_neither_a_token_nor_a_user_can_replace_the_operator(tmp_path: Path) -> None:
    async with scene(tmp_path, 'place = "confirm"') as here, here.harness.connect() as agent:
        token = (await agent.call("create_call", **placing()))["confirmation"]["token"]
    async with scene(tmp_path) as here, here.harness.connect("auto", User()) as agent:
        refused = await agent.call("create_call", **placing(), confirmation_token=token)
        assert refused["error"]["kind"] == "invalid_confirmation"
        approval = (await agent.call("create_call", **placing()))["confirmation"]["approval"]
        refused = await agent.call("create_call", **placing(), confirmation_token=approval)
        assert refused["error"]["kind"] == "invalid_confirmation"
    assert here.harness.changes == []


async def test_the_operator_approves_if_the_client_cannot_ask_its_user(tmp_path: Path) -> None:
    user = User(decline)
    async with scene(tmp_path, 'place = "require_human"') as here:
        async with here.harness.connect("auto", user) as agent:
            assert (await agent.call("create_call", **placing()))["outcome"] == "declined"
        async with here.harness.connect() as agent:
            assert (await agent.call("create_call", **placing()))["outcome"] == "awaiting_operator"
            await here.decide(approve=True)
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"
    assert len(user.asked) == len(here.harness.changes) == 1


@pytest.mark.parametrize("rule", ["operator", "require_human"])
async def test_a_store_in_memory_cannot_have_approval_requests(rule: str, tmp_path: Path) -> None:
    file = policy(tmp_path, f'[confirm]\nplace = "{rule}"\n')
    async with open_harness(calls_mcp_policy=file) as harness, harness.connect() as agent:
        refused = await agent.call("create_call", **placing())
    assert refused["error"]["kind"] == "policy_denied"
    assert "operator" in refused["error"]["hint"]
    assert harness.changes == []


async def test_a_token_does_not_replace_the_user_while_the_state_is_in_memory(
    tmp_path: Path,
) -> None:
    file = policy(tmp_path, '[confirm]\nplace = "require_human"\n')
    async with (
        open_harness(calls_mcp_policy=file) as harness,
        harness.connect(user=User()) as agent,
    ):
        told = await agent.call("create_call", **placing(), confirmation_token="made-up")
    assert "the client must ask its user" in told["error"]["message"]
    assert harness.changes == []


async def test_pending_requests_are_limited_for_each_principal(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        async with here.harness.connect(name="eve") as agent:
            outcomes = await _ask(agent, range(1, 23))
        async with here.harness.connect(name="ann") as agent:
            outcomes += await _ask(agent, [1])
    assert outcomes == ["awaiting_operator"] * 20 + ["policy_denied"] * 2 + ["awaiting_operator"]


async def _ask(agent: Agent, timeouts: Sequence[int]) -> list[str]:
    outcomes = [await agent.call("create_call", **placing(timeout=each)) for each in timeouts]
    return [each.get("error", {}).get("kind", each["outcome"]) for each in outcomes]
