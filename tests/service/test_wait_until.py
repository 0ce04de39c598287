"""`wait_until` of fetch_call. `tests/http/test_waits.py` tests what clients share."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from mcp.shared.subscriptions import ResourceUpdated

from calls_mcp.emulator import Fault
from calls_mcp.service import wait_until, watching
from tests.harness import ACCOUNT, ERAS, Agent, Era, Harness, open_harness, structured, text_of
from tests.subscriptions import left_alone, looked, looks, over_stdio
from tests.until import until
from tests.upstream import SID, Exchange, Step, answer, call, drop, hang, scripted

pytestmark = pytest.mark.anyio

RING, TALK, END = 1, 10, 2 * 3600  # seconds after which a call rings, is answered, has ended
QUICK: Mapping[str, Any] = {"calls_mcp_watch_interval": 0.01}


def quick(**settings: object) -> AbstractAsyncContextManager[Harness]:
    """A harness whose server reads watched calls all the time."""
    return open_harness(sandbox=False, **QUICK, **settings)


@dataclass
class Waiter:
    """A tool call in progress: the statuses that were reported, and its result."""

    reported: list[str] = field(default_factory=list[str])
    done: anyio.Event = field(default_factory=anyio.Event)
    content: dict[str, Any] = field(default_factory=dict[str, Any])
    text: str = ""

    async def call(self, agent: Agent, sid: str, arguments: Mapping[str, object]) -> None:
        result = await agent.client.call_tool(
            "fetch_call", {"sid": sid, **arguments}, progress_callback=self._note
        )
        self.content, self.text = structured(result), text_of(result)
        self.done.set()

    async def _note(self, progress: float, total: float | None, message: str | None) -> None:
        assert total is not None
        assert progress <= total
        self.reported.append(message or "")

    async def result(self) -> dict[str, Any]:
        """The structured content, once it is there."""
        with anyio.fail_after(30):
            await self.done.wait()
        return self.content


def begin(tasks: TaskGroup, agent: Agent, sid: str, **arguments: object) -> Waiter:
    """Begin to wait for a call in the background."""
    waiter = Waiter()
    tasks.start_soon(waiter.call, agent, sid, {"wait_seconds": 50, **arguments})
    return waiter


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("condition", "steps", "status"),
    [
        ("change", (RING,), "ringing"),
        ("answered", (RING, TALK), "in-progress"),
        ("ended", (RING, TALK, END), "completed"),
        ("answered", (END,), "completed"),
    ],
)
async def test_a_wait_ends_with_its_condition_and_reports_each_status(
    era: Era, condition: str, steps: tuple[int, ...], status: str
) -> None:
    async with quick() as harness, harness.connect(era) as agent:
        sid = await agent.place()
        async with anyio.create_task_group() as tasks:
            waiter = begin(tasks, agent, sid, wait_until=condition)
            for seconds in steps:
                await looked(harness, sid, 2)
                assert not waiter.done.is_set()
                harness.clock.advance(seconds)
            outcome = await waiter.result()
            assert outcome["call"]["status"] == status
            assert "warnings" not in outcome
            states = ["queued", "ringing", "in-progress", "completed"]
            told = [states[0], status] if steps == (END,) else states[: len(steps) + 1]
            assert waiter.reported == told


@pytest.mark.process
@pytest.mark.parametrize("era", ERAS)
async def test_a_client_can_wait_over_stdio(era: Era) -> None:
    async with open_harness() as harness, harness.connect() as agent:
        sid = await agent.place()
        connect = over_stdio(
            TWILIO_ACCOUNT_SID=ACCOUNT,
            TWILIO_AUTH_TOKEN=harness.emulator.account.auth_token,
            CALLS_MCP_API_BASE_URL=harness.emulator.base_url,
            CALLS_MCP_WATCH_INTERVAL="0.05",
        )
        async with connect(era, None) as client, anyio.create_task_group() as tasks:
            waiter = begin(tasks, Agent(client), sid, wait_until="ended")
            await looked(harness, sid, 3)
            harness.clock.advance(END)
            assert (await waiter.result())["call"]["status"] == "completed"
            assert waiter.reported == ["queued", "completed"]


@pytest.mark.parametrize("condition", ["answered", "ended", "change"])
async def test_an_ended_call_is_not_waited_for(condition: str) -> None:
    async with open_harness() as harness, harness.connect() as agent:
        sid = await agent.place()
        harness.clock.advance(END)
        outcome = await agent.call("fetch_call", sid=sid, wait_until=condition)
        assert outcome["call"]["status"] == "completed"
        assert looks(harness, sid) == 1


async def test_an_answered_call_is_not_waited_for_until_it_is_answered() -> None:
    async with open_harness() as harness, harness.connect() as agent:
        sid = await agent.place()
        harness.clock.advance(TALK)
        outcome = await agent.call("fetch_call", sid=sid, wait_until="answered")
        assert outcome["call"]["status"] == "in-progress"
        assert looks(harness, sid) == 1


@pytest.mark.parametrize("condition", ["answered", "ended", "change"])
async def test_when_the_time_is_up_the_result_says_how_to_go_on(condition: str) -> None:
    async with quick() as harness, harness.connect() as agent:
        sid = await agent.place()
        outcome = await agent.call("fetch_call", sid=sid, wait_until=condition, wait_seconds=1)
        assert outcome["call"]["status"] == "queued"
        (warning,) = outcome["warnings"]
        assert warning.startswith(
            "the call is still queued after 1 s; to keep waiting, call fetch_"
        )
        assert looks(harness, sid) > 2


async def test_a_wait_is_limited_by_the_deadline() -> None:
    step = answer(200, call(status="ringing"))
    async with scripted(step, deadline=2, **QUICK) as (_, agent):
        outcome = await agent.call("fetch_call", sid=SID, wait_until="ended")
    (warning,) = outcome["warnings"]
    assert "still ringing after 2" in warning
    assert "(limited by CALLS_MCP_DEADLINE)" in warning


async def test_seconds_without_a_condition_are_a_fault() -> None:
    async with open_harness() as harness, harness.connect() as agent:
        text = await agent.read("fetch_call", sid=SID, wait_seconds=5)
        assert (
            "wait_until: missing; expected one of answered, ended, change, because wait_seconds "
            "is given"
        ) in text
        assert harness.reads == []


async def test_no_argument_about_waiting_is_sent_to_the_api() -> None:
    async with quick() as harness, harness.connect() as agent:
        sid = await agent.place()
        harness.clock.advance(END)
        await agent.call("fetch_call", sid=sid, wait_until="ended", wait_seconds=7)
        assert {(entry.query, entry.form) for entry in harness.reads} == {("", ())}


async def test_a_wait_counts_as_one_read(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[caps]\nreads_per_minute = 2\n[destinations]\n", "utf-8")
    async with quick(calls_mcp_policy=policy) as harness, harness.connect() as agent:
        sid = await agent.place()
        async with anyio.create_task_group() as tasks:
            waiter = begin(tasks, agent, sid, wait_until="ended")
            await looked(harness, sid, 10)
            assert "error" not in await agent.call("fetch_call", sid=sid)
            assert (await agent.call("fetch_call", sid=sid))["error"]["kind"] == "policy_denied"
            harness.clock.advance(END)
            assert (await waiter.result())["call"]["status"] == "completed"


async def test_a_wait_reports_progress_even_without_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait_until, "_SILENCE", 0.01)
    async with quick() as harness, harness.connect() as agent:
        sid = await agent.place()
        async with anyio.create_task_group() as tasks:
            waiter = begin(tasks, agent, sid, wait_until="ended")
            await until(lambda: waiter.reported[4:] != [])
            assert {*waiter.reported} == {"queued"}
            harness.clock.advance(END)


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancelled_wait_stops_reading(era: Era) -> None:
    async with quick() as harness, harness.connect(era) as agent:
        sid = await agent.place()
        async with anyio.create_task_group() as tasks:
            begin(tasks, agent, sid, wait_until="ended")
            await looked(harness, sid, 3)
            tasks.cancel_scope.cancel()
        assert await left_alone(harness, sid)


async def test_the_extra_reads_of_a_wait_do_not_count_against_the_subscriber(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_WHILE_RINGING", 0.01)
    policy = tmp_path / "policy.toml"
    policy.write_text("[caps]\nreads_per_minute = 3\n[destinations]\n", "utf-8")
    async with (
        open_harness(calls_mcp_watch_interval=3600, calls_mcp_policy=policy) as harness,
        harness.connect() as agent,
    ):
        sid = await agent.place()
        async with (
            agent.client.listen(resource_subscriptions=[f"calls://call/{sid}"]) as news,
            anyio.create_task_group() as tasks,
        ):
            waiter = begin(tasks, agent, sid, wait_until="answered")
            await looked(harness, sid, 5)
            assert "error" not in await agent.call("fetch_call", sid=sid)
            harness.clock.advance(TALK)
            assert (await waiter.result())["call"]["status"] == "in-progress"
            assert [type(event) for event in [await anext(aiter(news))]] == [ResourceUpdated]


async def test_waits_for_the_same_call_in_two_accounts_are_separate() -> None:
    async def answer_for_account(exchange: Exchange) -> None:
        account = exchange.request.target.split("/")[3]
        status = "in-progress" if account == ACCOUNT else "ringing"
        await answer(200, call(account_sid=account, status=status))(exchange)

    async with (
        scripted(answer_for_account, deadline=30, **QUICK) as (upstream, agent),
        anyio.create_task_group() as tasks,
    ):
        waiter = begin(tasks, agent, SID, wait_until="answered", account_sid="AC" + "7" * 32)
        await until(lambda: len(upstream.requests) >= 3)
        begin(tasks, agent, SID, wait_until="ended")
        await until(lambda: len(upstream.requests) >= 20)
        assert waiter.reported == ["ringing"]
        tasks.cancel_scope.cancel()


async def test_a_read_that_began_before_the_wait_is_not_taken_for_a_change() -> None:
    late = anyio.Event()

    async def step(exchange: Exchange) -> None:
        number = len(upstream.requests)
        if number == 2:  # a poll for the first client, which overlaps the second's first read
            await late.wait()
        status = "ringing" if number <= 2 else "in-progress" if number <= 6 else "completed"
        await answer(200, call(status=status))(exchange)

    async with (
        scripted(step, deadline=30, **QUICK) as (upstream, agent),
        anyio.create_task_group() as tasks,
    ):
        begin(tasks, agent, SID, wait_until="ended")
        await until(lambda: len(upstream.requests) >= 2)
        second = begin(tasks, agent, SID, wait_until="change")
        await until(lambda: second.reported)
        late.set()
        assert (await second.result())["call"]["status"] == "completed"


# Errors of the API


async def test_a_wait_reads_immediately_a_call_whose_earlier_reads_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with quick() as harness, harness.connect() as agent:
        sid = await agent.place()
        async with (
            agent.client.listen(resource_subscriptions=[f"calls://call/{sid}"]),
            anyio.create_task_group() as tasks,
        ):
            monkeypatch.setattr(watching, "_SLOWEST", 0.01)
            harness.emulator.faults.add(Fault(kind="error", status=401, method="GET", requests=12))
            await until(lambda: not harness.emulator.faults.armed)
            monkeypatch.setattr(watching, "_SLOWEST", 3600)
            waiter = begin(tasks, agent, sid, wait_until="answered", wait_seconds=5)
            await looked(harness, sid, 1)
            harness.clock.advance(TALK)
            assert (await waiter.result())["call"]["status"] == "in-progress"


async def test_a_transient_error_is_retried_while_waiting() -> None:
    async with quick() as harness, harness.connect() as agent:
        sid = await agent.place()
        async with anyio.create_task_group() as tasks:
            waiter = begin(tasks, agent, sid, wait_until="ended")
            await looked(harness, sid, 2)
            harness.emulator.faults.add(Fault(kind="error", status=503, method="GET", requests=6))
            harness.clock.advance(END)
            assert (await waiter.result())["call"]["status"] == "completed"
        assert not harness.emulator.faults.armed


@pytest.mark.parametrize(("status", "kind"), [(401, "credentials_rejected"), (404, "not_found")])
async def test_an_error_that_remains_is_the_result(status: int, kind: str) -> None:
    steps = [answer(200, call(status="ringing"))] * 2 + [answer(status)]
    async with scripted(*steps, deadline=3, **QUICK) as (_, agent):
        outcome = await agent.call("fetch_call", sid=SID, wait_until="ended", wait_seconds=1)
    assert outcome["error"]["kind"] == kind


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        (answer(503), "Nothing could be read: the API returned 503."),
        (answer(429, headers={"Retry-After": "40"}), "the API returned 429. Wait 40 s, then try"),
        (drop, "Nothing could be read: the connection failed"),
    ],
)
async def test_if_the_last_read_failed_the_result_has_the_last_known_state(
    failing: Step, why: str
) -> None:
    steps = [answer(200, call(status="ringing")), failing]
    async with scripted(*steps, deadline=3, **QUICK) as (_, agent):
        outcome = await agent.call("fetch_call", sid=SID, wait_until="ended", wait_seconds=1)
    assert outcome["outcome"] == "done"
    assert outcome["call"]["status"] == "ringing"
    (warning,) = outcome["warnings"]
    assert warning.startswith("the last read failed; the call was ringing 1 s ago. ")
    assert why in warning


@pytest.mark.parametrize(
    ("status", "said"), [("ringing", "ringing"), ("new-status", "new-status"), (None, "of unknown")]
)
async def test_a_result_says_how_old_it_is_if_the_api_stopped_answering(
    status: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait_until, "_OUTDATED", 0.5)
    async with scripted(answer(200, call(status=status)), hang, deadline=30, **QUICK) as (_, agent):
        outcome = await agent.call("fetch_call", sid=SID, wait_until="ended", wait_seconds=1)
    (warning,) = outcome["warnings"]
    assert warning.startswith(f"the API has not responded for 1 s; the call was {said}")
    assert "still" not in warning


async def test_a_call_of_unknown_status_is_not_said_to_be_live() -> None:
    async with scripted(answer(200, call(status=None)), deadline=30, **QUICK) as (_, agent):
        outcome = await agent.call("fetch_call", sid=SID, wait_until="ended", wait_seconds=1)
    assert outcome["warnings"][0].startswith("the call is still of unknown status after 1 s")


async def test_a_wait_does_not_read_before_the_time_that_the_api_asked_for() -> None:
    busy = answer(429, headers={"Retry-After": "40"})
    steps = [answer(200, call(status="ringing")), busy, answer(200, call(status="completed"))]
    async with scripted(*steps, deadline=30, **QUICK) as (upstream, agent):
        outcome = await agent.call("fetch_call", sid=SID, wait_until="ended", wait_seconds=1)
    assert outcome["call"]["status"] == "ringing"
    assert len(upstream.requests) == 2
