"""Requests fail fast while the API keeps failing, and are tried again after a pause."""

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from calls_mcp.errors import InvocationError, Unreachable
from calls_mcp.tools.catalog import Json, load_operations
from calls_mcp.tools.validation import Arguments
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import encode
from tests.harness import ACCOUNT, placing
from tests.telemetry import recording
from tests.twilio.harness import (
    CREATE,
    DELETE,
    FETCH,
    FOUND,
    GONE,
    HANG_UP,
    LIST,
    LISTED,
    PLACED,
    UPDATE,
    HeldStep,
    by_kind,
    scripted,
    serving,
)
from tests.upstream import (
    SID,
    Exchange,
    Step,
    Upstream,
    access,
    answer,
    call,
    drop,
    error_of,
    hang,
    refusing,
    use,
)

pytestmark = pytest.mark.anyio

LONG = 60  # seconds; longer than any pause
FAILING = 5 * 4  # attempts of five requests


def wait_in(error: Mapping[str, Any]) -> int:
    """Return the seconds to wait that an error of the open circuit names."""
    assert (error["kind"], error["retryable"]) == ("unreachable", True)
    told = re.fullmatch(
        r"Nothing was sent: the API has failed \d+ times in a row; "
        r"the next attempt is in (\d+) s\.",
        error["message"],
    )
    assert told is not None
    assert f"Wait {told[1]} s, then try again" in error["hint"]
    return int(told[1])


# Opening


async def test_after_five_failures_in_a_row_nothing_is_sent_for_a_while() -> None:
    async with scripted(answer(503)) as (upstream, service):
        await service.fail()
        for tool in (FETCH, LIST, CREATE, UPDATE, DELETE):
            assert 1 <= wait_in(await error_of(service.agent, tool)) <= 2
        assert upstream.methods == ["GET"] * FAILING


async def dawdle(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n{")
    await hang(exchange)


@pytest.mark.parametrize(
    ("failure", "options"),
    [
        pytest.param(drop, {}, id="dropped"),
        pytest.param(hang, {"step_timeout": 0.5}, id="hangs"),
        pytest.param(dawdle, {"deadline": 1.5}, id="not complete by the deadline"),
        pytest.param(answer(408), {}, id="408"),
        pytest.param(answer(200, "<html>log in</html>"), {}, id="200 in HTML"),
    ],
)
async def test_every_failure_to_get_a_usable_response_counts(
    failure: Step, options: dict[str, float]
) -> None:
    async with scripted(failure, **options) as (_, service):
        await service.fail()
        wait_in(await error_of(service.agent, FETCH))


async def test_a_connection_that_is_refused_counts() -> None:
    with refusing() as base_url:
        async with serving(base_url) as service:
            await service.fail()
            wait_in(await error_of(service.agent, FETCH))


@pytest.mark.parametrize("refusal", [answer(401), GONE, answer(429, headers={"Retry-After": "99"})])
async def test_a_rejection_by_the_api_is_not_a_failure(refusal: Step) -> None:
    async with scripted(refusal) as (upstream, service):
        for _ in range(7):
            await error_of(service.agent, FETCH)
        assert len(upstream.requests) == 7


async def test_queued_requests_are_not_sent_after_the_circuit_opens() -> None:
    operation = load_operations()["create_call"]
    request = encode(Arguments(operation, cast("dict[str, Json]", placing())), ACCOUNT)
    first = HeldStep(answer(503), expected=16)
    kinds = Counter[str]()

    async def send(client: TwilioClient) -> None:
        try:
            await client.send(request)
        except InvocationError as error:
            kinds[error.kind] += 1

    async with (
        Upstream(first) as upstream,
        aclosing(TwilioClient(access(upstream.base_url))) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(40):
            tasks.start_soon(send, client)
        await first.all_waiting.wait()
        first.released.set()
    # A slot may be reused before the fifth failure is known.
    assert kinds["unreachable"] >= 40 - 16 - 5
    assert kinds.total() == 40


async def test_a_success_resets_the_count() -> None:
    rough = [*[answer(500)] * (FAILING - 4), FOUND]
    async with scripted(*rough * 2) as (_, service):
        for _ in range(2):
            await service.fail(4)
            assert (await use(service.agent, FETCH))["outcome"] == "done"


async def test_a_cancelled_invocation_does_not_count() -> None:
    gate = HeldStep(FOUND, expected=6)
    async with scripted(gate) as (_, service):
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(use, service.agent, FETCH)
            await gate.all_waiting.wait()
            tasks.cancel_scope.cancel()
        gate.released.set()
        assert (await use(service.agent, FETCH))["outcome"] == "done"


async def test_a_request_without_time_left_does_not_count() -> None:
    request = encode(Arguments(load_operations()["fetch_call"], {"sid": SID}), ACCOUNT)
    async with (
        Upstream(FOUND) as upstream,
        aclosing(TwilioClient(access(upstream.base_url))) as client,
    ):
        for _ in range(7):
            with pytest.raises(
                Unreachable, match="Nothing was sent: the request could not be sent within"
            ):
                await client.send(request, deadline=anyio.current_time())
        assert upstream.requests == []
        assert client.circuit == "closed"


# Closing


@pytest.mark.parametrize("reply", [FOUND, GONE], ids=["200", "404"])
async def test_after_the_pause_one_trial_is_sent_and_its_success_closes_the_circuit(
    reply: Step,
) -> None:
    trial = HeldStep(reply)
    async with scripted(*[answer(500)] * FAILING, trial) as (upstream, service):
        await service.fail()
        service.clock.advance(LONG)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.agent.client.call_tool, *FETCH)
            await trial.all_waiting.wait()
            for tool in (FETCH, LIST, CREATE, UPDATE, DELETE):
                wait_in(await error_of(service.agent, tool))
            assert len(upstream.requests) == FAILING + 1
            trial.released.set()
        await service.agent.client.call_tool(*FETCH)
        assert len(upstream.requests) == FAILING + 2


async def test_the_pauses_grow_up_to_half_a_minute_and_vary() -> None:
    async with scripted(answer(500)) as (upstream, service):
        await service.fail()
        for shortest in (1, 2, 4, 8, 16, 16, 16):
            sent = len(upstream.requests)
            service.clock.advance(shortest * 0.99)
            assert 1 <= wait_in(await error_of(service.agent, FETCH)) <= shortest + 1
            service.clock.advance(shortest * 1.02)
            error = await error_of(service.agent, FETCH)
            assert "the API returned 500" in error["message"]
            assert len(upstream.requests) == sent + 1  # a trial is a single attempt


async def test_a_hanging_trial_delays_others_by_one_pause_only() -> None:
    hanging = HeldStep(answer(500))
    async with scripted(*[answer(500)] * FAILING, hanging, FOUND) as (_, service):
        await service.fail()
        service.clock.advance(LONG)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.agent.client.call_tool, *FETCH)
            await hanging.all_waiting.wait()
            wait_in(await error_of(service.agent, FETCH))
            service.clock.advance(LONG)
            assert (await use(service.agent, FETCH))["outcome"] == "done"
            hanging.released.set()
        assert (await use(service.agent, FETCH))["outcome"] == "done"


async def test_requests_from_before_the_opening_do_not_lengthen_the_pause() -> None:
    early = HeldStep(drop, expected=8)
    async with scripted(by_kind(list=early, fetch=answer(500))) as (_, service):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(error_of, service.agent, LIST)
            await early.all_waiting.wait()
            await service.fail()
            service.clock.advance(LONG)
            early.released.set()
        error = await error_of(service.agent, FETCH)
        assert "the API returned 500" in error["message"]


async def test_requests_in_progress_are_retried_after_a_short_failure() -> None:
    async with scripted(*[answer(503)] * 8, FOUND) as (_, service):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(use, service.agent, FETCH)
        assert (await use(service.agent, FETCH))["outcome"] == "done"


# Changes


async def test_a_call_can_be_hung_up_while_the_circuit_is_open() -> None:
    live = answer(200, call(status="in-progress"))
    ended = answer(200, call(status="completed"))
    steps = by_kind(list=answer(500), fetch=live, POST=ended)
    async with scripted(steps, calls_mcp_confirm="all") as (_, service):
        await service.fail(tool=LIST)
        wait_in(await error_of(service.agent, LIST))
        outcome = await service.agent.confirm(*HANG_UP[:1], **HANG_UP[1])
    assert outcome["call"]["status"] == "completed"


async def test_a_call_is_refused_without_asking_while_the_circuit_is_open() -> None:
    async with scripted(answer(500), calls_mcp_confirm="all") as (_, service):
        await service.fail()
        wait_in(await error_of(service.agent, CREATE))


@pytest.mark.parametrize("confirm", ["none", "all"])
async def test_an_outage_uses_up_neither_a_confirmation_nor_the_caps(
    tmp_path: Path, confirm: str
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[caps]\ncalls_per_day = 1\n", "utf-8")
    steps = by_kind(fetch=answer(500), list=LISTED, POST=PLACED)
    async with scripted(steps, calls_mcp_confirm=confirm, calls_mcp_policy=policy) as (
        upstream,
        service,
    ):
        arguments = placing()
        if confirm == "all":
            asked = await service.agent.call("create_call", **arguments)
            arguments["confirmation_token"] = asked["confirmation"]["token"]
        await service.fail()
        for _ in range(2):
            wait_in(await error_of(service.agent, ("create_call", arguments)))
        service.clock.advance(LONG)
        placed = await service.agent.call("create_call", **arguments)
        assert placed["outcome"] == "done"
        if confirm == "all":  # a used confirmation returns its result, whatever the API does
            await service.fail()
            again = await service.agent.call("create_call", **arguments)
            assert again["call"] == placed["call"]
        assert len(upstream.changes) == 1


async def test_an_expired_confirmation_is_reported_while_the_circuit_is_open() -> None:
    async with scripted(answer(500), calls_mcp_confirm="all", calls_mcp_confirm_ttl=60) as (
        upstream,
        service,
    ):
        asked = await service.agent.call("create_call", **placing())
        service.clock.advance(61)
        await service.fail()
        late = placing(confirmation_token=asked["confirmation"]["token"])
        assert (await service.agent.call("create_call", **late))["outcome"] == "expired"
        assert upstream.changes == []


async def test_lost_changes_are_looked_up_while_the_circuit_is_open() -> None:
    lost, looked = HeldStep(drop, expected=5), HeldStep(GONE, expected=5)
    outcomes: list[dict[str, Any]] = []

    async def delete(sid: str) -> None:
        outcomes.append(await use(service.agent, ("delete_call", {"sid": sid})))

    async with scripted(by_kind(DELETE=lost, fetch=looked)) as (upstream, service):
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(delete, f"CA{number:032x}")
            await lost.all_waiting.wait()
            lost.released.set()
            await looked.all_waiting.wait()
            wait_in(await error_of(service.agent, FETCH))
            looked.released.set()
        assert [outcome["recovered"] for outcome in outcomes] == [True] * 5
        assert len(upstream.changes) == 5
        await error_of(service.agent, FETCH)
        assert len(upstream.requests) == 11  # the responses have closed it


async def test_lookups_are_retried_while_the_circuit_is_open() -> None:
    lost = HeldStep(drop)
    outcome: dict[str, Any] = {}
    looks = iter([answer(500), answer(500), GONE])

    async def read(exchange: Exchange) -> None:
        await (next(looks) if lost.released.is_set() else answer(500))(exchange)

    async def delete() -> None:
        outcome.update(await use(service.agent, DELETE))

    async with scripted(by_kind(DELETE=lost, fetch=read)) as (upstream, service):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete)
            await lost.all_waiting.wait()
            await service.fail()
            lost.released.set()
        assert outcome["recovered"] is True
        assert len(upstream.changes) == 1


# Metrics and logs


async def test_the_state_of_the_circuit_is_a_metric_and_decides_readiness() -> None:
    with recording() as recorded:
        before = recorded.measured("calls_mcp.upstream.breakers")  # of clients that were not closed

        def measured() -> list[str]:
            counted = recorded.measured("calls_mcp.upstream.breakers")
            return [state for (state,) in counted if counted[state,] == before.get((state,), 0) + 1]

        async with scripted(*[answer(500)] * FAILING, FOUND) as (_, service):
            assert (measured(), await service.runtime.is_ready()) == (["closed"], True)
            await service.fail()
            assert (measured(), await service.runtime.is_ready()) == (["open"], False)
            service.clock.advance(LONG)  # ready, because only a request can close it
            assert (measured(), await service.runtime.is_ready()) == (["half_open"], True)
            await use(service.agent, FETCH)
            assert (measured(), await service.runtime.is_ready()) == (["closed"], True)
        assert measured() == []


async def test_a_server_is_not_ready_without_its_store() -> None:
    with refusing() as nobody:
        url = nobody.replace("http://", "redis://") + "/0"
        async with serving(nobody, calls_mcp_state_url=url) as service:
            assert not await service.runtime.is_ready()
