"""An API that keeps failing is left alone for a while; one that stalls holds nobody else up."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from calls_mcp.arguments import Arguments
from calls_mcp.catalog import load_operations
from calls_mcp.emulator import ManualClock
from calls_mcp.errors import Unreachable
from calls_mcp.runtime import Runtime
from calls_mcp.server import build_server
from calls_mcp.settings import load_settings
from calls_mcp.twilio import TwilioClient
from calls_mcp.wire import encode
from tests.observatory import observing
from tests.rig import ACCOUNT, PERMISSIVE, Agent, placing
from tests.upstream import (
    SID,
    Exchange,
    Step,
    Tool,
    Upstream,
    access,
    answer,
    call,
    drop,
    error_of,
    hang,
    page,
    refusing,
    use,
)

pytestmark = pytest.mark.anyio

LANE = 16
LONG = 60  # seconds; longer than any pause
FAILING = 5 * 4  # attempts of five requests
HTML = "<html><body>Captive portal: please log in</body></html>"
GONE = answer(404, {"code": 20404, "message": "not found", "status": 404})
FOUND = answer(200, call())
LISTED = answer(200, page(call()))

FETCH: Tool = ("fetch_call", {"sid": SID})
LIST: Tool = ("list_calls", {"limit": 1})
CREATE: Tool = ("create_call", placing())
UPDATE: Tool = ("update_call", {"sid": SID, "url": "https://example.com/"})
HANG_UP: Tool = ("update_call", {"sid": SID, "status": "completed"})
DELETE: Tool = ("delete_call", {"sid": SID})
TOOLS = [pytest.param(tool, id=tool[0]) for tool in (FETCH, LIST, CREATE, UPDATE, DELETE)]


@dataclass
class Service:
    """A server, the one client of it, and the clock that it lives by."""

    agent: Agent
    runtime: Runtime
    clock: ManualClock

    async def fail(self, times: int = 5) -> None:
        """Fetches that must fail, at the same time."""
        async with anyio.create_task_group() as tasks:
            for _ in range(times):
                tasks.start_soon(error_of, self.agent, FETCH)


@asynccontextmanager
async def serving(
    base_url: str, *, step_timeout: float = 20, deadline: float = 20, **settings: object
) -> AsyncGenerator[Service]:
    settings = {"calls_mcp_confirm": "none", "calls_mcp_policy": PERMISSIVE} | settings
    reached, clock = access(base_url, timeout=step_timeout, deadline=deadline), ManualClock(0)
    async with (
        Runtime(load_settings(settings), reached, clock=clock, monotonic=clock) as runtime,
        Client(build_server(runtime), cache=None) as client,
    ):
        yield Service(Agent(client), runtime, clock)


@asynccontextmanager
async def scripted(*steps: Step, **options: float) -> AsyncGenerator[tuple[Upstream, Service]]:
    async with Upstream(*steps) as upstream, serving(upstream.base_url, **options) as service:
        yield upstream, service


@dataclass
class Gate:
    """Holds requests until it is opened, then plays `step`; tells when `expected` have come."""

    step: Step
    expected: int = 1
    waiting: int = 0
    full: anyio.Event = field(default_factory=anyio.Event)
    opened: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, exchange: Exchange) -> None:
        self.waiting += 1
        if self.waiting >= self.expected:
            self.full.set()
        await self.opened.wait()
        await self.step(exchange)


def by_kind(**steps: Step) -> Step:
    """Play the step for what is asked: a `fetch`, a `list`, a `POST` or a `DELETE`."""

    async def play(exchange: Exchange) -> None:
        request = exchange.request
        kind = request.method
        if kind == "GET":
            kind = "list" if "Calls.json" in request.target else "fetch"
        await steps[kind](exchange)

    return play


def wait_in(error: Mapping[str, Any]) -> int:
    """The seconds that a refusal by the open circuit asks to wait."""
    assert (error["kind"], error["retryable"]) == ("unreachable", True)
    told = re.fullmatch(
        r"Nothing was sent: the API has failed \d+ times in a row; "
        r"the next attempt is in (\d+) s\.",
        error["message"],
    )
    assert told is not None
    assert f"wait {told[1]} s, then call again" in error["hint"]
    return int(told[1])


# When it opens


async def test_after_five_failures_in_a_row_nothing_is_sent_for_a_while() -> None:
    async with scripted(answer(503)) as (upstream, service):
        for _ in range(5):
            error = await error_of(service.agent, FETCH)
            assert "the API answered 503" in error["message"]
        assert upstream.methods == ["GET"] * FAILING
        for tool in (FETCH, LIST, CREATE, UPDATE, DELETE):
            assert 1 <= wait_in(await error_of(service.agent, tool)) <= 2
        assert upstream.methods == ["GET"] * FAILING


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(drop, id="dropped"),
        pytest.param(hang, id="hangs"),
        pytest.param(answer(500), id="500"),
        pytest.param(answer(408), id="408"),
        pytest.param(answer(200, HTML), id="200 in HTML"),
    ],
)
async def test_every_failure_to_get_a_usable_answer_counts(failure: Step) -> None:
    async with scripted(failure, step_timeout=0.5) as (_, service):
        await service.fail()
        wait_in(await error_of(service.agent, FETCH))


async def test_an_answer_that_is_not_complete_by_the_deadline_counts() -> None:
    async def dawdle(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n{")
        await hang(exchange)

    async with scripted(dawdle, deadline=0.5) as (_, service):
        await service.fail()
        wait_in(await error_of(service.agent, FETCH))


async def test_a_connection_that_is_refused_counts() -> None:
    with refusing() as base_url:
        async with serving(base_url) as service:
            await service.fail()
            wait_in(await error_of(service.agent, FETCH))


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(answer(400), id="400"),
        pytest.param(answer(401), id="401"),
        pytest.param(GONE, id="404"),
        pytest.param(answer(429, headers={"Retry-After": "3600"}), id="429"),
    ],
)
async def test_a_refusal_by_the_api_is_an_answer(refusal: Step) -> None:
    async with scripted(refusal) as (upstream, service):
        for _ in range(7):
            await error_of(service.agent, FETCH)
        assert len(upstream.requests) == 7


async def test_an_answer_in_between_begins_the_count_anew() -> None:
    rough = [*[answer(500)] * (FAILING - 4), FOUND]
    async with scripted(*rough * 2) as (_, service):
        for _ in range(2):
            await service.fail(4)
            assert (await use(service.agent, FETCH))["outcome"] == "done"


async def test_an_invocation_that_was_cancelled_tells_nothing() -> None:
    gate = Gate(FOUND, expected=6)
    async with scripted(gate) as (_, service):
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(use, service.agent, FETCH)
            await gate.full.wait()
            tasks.cancel_scope.cancel()
        gate.opened.set()
        assert (await use(service.agent, FETCH))["outcome"] == "done"


async def test_a_request_that_there_is_no_time_for_tells_nothing() -> None:
    request = encode(Arguments(load_operations()["fetch_call"], {"sid": SID}), ACCOUNT)
    async with (
        Upstream(FOUND) as upstream,
        aclosing(TwilioClient(access(upstream.base_url))) as client,
    ):
        for _ in range(7):
            with pytest.raises(Unreachable, match="Nothing was sent: no answer within"):
                await client.send(request, until=anyio.current_time())
        assert upstream.requests == []
        assert client.circuit == "closed"


# How it closes


@pytest.mark.parametrize("reply", [pytest.param(FOUND, id="200"), pytest.param(GONE, id="404")])
async def test_after_the_pause_one_of_many_is_let_through_and_its_answer_lets_in_all(
    reply: Step,
) -> None:
    failing, probed = [answer(500)] * FAILING, Gate(reply)
    async with scripted(*failing, probed) as (upstream, service):
        await service.fail()
        service.clock.advance(LONG)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.agent.client.call_tool, *FETCH)
            await probed.full.wait()
            for tool in (FETCH, LIST, CREATE, UPDATE, DELETE):
                wait_in(await error_of(service.agent, tool))
            assert len(upstream.requests) == FAILING + 1
            probed.opened.set()
        await service.agent.client.call_tool(*FETCH)
        assert len(upstream.requests) == FAILING + 2


async def test_the_pauses_grow_up_to_half_a_minute_and_vary() -> None:
    async with scripted(answer(500)) as (upstream, service):
        await service.fail()
        for shortest in (1, 2, 4, 8, 16, 16, 16):
            sent = len(upstream.requests)
            service.clock.advance(shortest * 0.99)
            assert 1 <= wait_in(await error_of(service.agent, FETCH)) <= shortest + 1
            assert len(upstream.requests) == sent
            service.clock.advance(shortest * 1.02)
            error = await error_of(service.agent, FETCH)
            assert "the API answered 500" in error["message"]
            assert len(upstream.requests) == sent + 1


async def test_a_probe_that_hangs_holds_nobody_up_for_longer_than_a_pause() -> None:
    failing, hanging = [answer(500)] * FAILING, Gate(answer(500))
    async with scripted(*failing, hanging, FOUND) as (_, service):
        await service.fail()
        service.clock.advance(LONG)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.agent.client.call_tool, *FETCH)
            await hanging.full.wait()
            wait_in(await error_of(service.agent, FETCH))
            service.clock.advance(LONG)
            assert (await use(service.agent, FETCH))["outcome"] == "done"
            hanging.opened.set()
        assert (await use(service.agent, FETCH))["outcome"] == "done"


async def test_what_began_before_it_opened_does_not_lengthen_the_pause() -> None:
    early = Gate(drop, expected=8)
    async with scripted(by_kind(list=early, fetch=answer(500))) as (_, service):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(error_of, service.agent, LIST)
            await early.full.wait()
            await service.fail()
            service.clock.advance(LONG)
            early.opened.set()
        error = await error_of(service.agent, FETCH)
        assert "the API answered 500" in error["message"]


# Changes


@pytest.mark.parametrize(
    ("tool", "probe"), [(CREATE, "list"), (UPDATE, "fetch"), (DELETE, "fetch")]
)
async def test_a_change_is_never_the_probe_but_sends_a_read_first(tool: Tool, probe: str) -> None:
    steps: dict[str, Step] = {"list": answer(500), "fetch": answer(500)}
    done = {"POST": answer(201, call()), "DELETE": answer(204)}

    async def play(exchange: Exchange) -> None:
        await by_kind(**steps, **done)(exchange)

    async with scripted(play) as (upstream, service):
        await service.fail()
        sent = len(upstream.requests)
        service.clock.advance(LONG)
        wait_in(await error_of(service.agent, tool))
        assert upstream.methods[sent:] == ["GET"]
        steps[probe] = LISTED if probe == "list" else FOUND
        service.clock.advance(LONG)
        assert (await use(service.agent, tool))["outcome"] == "done"
        assert upstream.methods[sent + 1] == "GET"
        assert len(upstream.changes) == 1


async def test_a_call_is_hung_up_though_the_api_keeps_failing() -> None:
    live = answer(200, call(status="in-progress"))
    everything = by_kind(list=answer(500), fetch=live, POST=answer(200, call(status="completed")))
    async with (
        Upstream(everything) as upstream,
        serving(upstream.base_url, calls_mcp_confirm="all") as service,
    ):
        for _ in range(5):
            await error_of(service.agent, LIST)
        wait_in(await error_of(service.agent, LIST))
        ended = await service.agent.confirm(*HANG_UP[:1], **HANG_UP[1])
    assert ended["call"]["status"] == "completed"


async def test_nobody_is_asked_about_a_call_that_could_not_be_placed() -> None:
    async with (
        Upstream(answer(500)) as upstream,
        serving(upstream.base_url, calls_mcp_confirm="all") as service,
    ):
        await service.fail()
        wait_in(await error_of(service.agent, CREATE))


async def test_what_fails_for_a_moment_only_is_tried_again_by_all_who_are_under_way() -> None:
    async with scripted(*[answer(503)] * 8, FOUND) as (_, service):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(use, service.agent, FETCH)
        assert (await use(service.agent, FETCH))["outcome"] == "done"


async def test_the_end_of_a_call_waits_for_no_stalled_new_calls() -> None:
    stalled = Gate(answer(201, call()), LANE)

    async def play(exchange: Exchange) -> None:
        is_new = exchange.request.target.endswith("Calls.json")
        await (stalled if is_new else answer(200, call(status="completed")))(exchange)

    everything = by_kind(POST=play, fetch=answer(200, call(status="in-progress")))
    async with scripted(everything) as (_, service), anyio.create_task_group() as tasks:
        for number in range(LANE + 1):
            new = placing(to=f"+150055502{number:02}")
            tasks.start_soon(use, service.agent, ("create_call", new))
        await stalled.full.wait()
        assert (await use(service.agent, HANG_UP))["outcome"] == "done"
        stalled.opened.set()


async def test_a_confirmation_that_meets_an_open_circuit_can_be_used_when_it_has_closed() -> None:
    steps: dict[str, Step] = {"list": answer(500), "fetch": answer(500)}

    async def play(exchange: Exchange) -> None:
        await by_kind(**steps, POST=answer(201, call()))(exchange)

    async with (
        Upstream(play) as upstream,
        serving(upstream.base_url, calls_mcp_confirm="all") as service,
    ):
        asked = await service.agent.call("create_call", **placing())
        confirmed = placing(confirmation_token=asked["confirmation"]["token"])
        await service.fail()
        wait_in(await error_of(service.agent, ("create_call", confirmed)))
        service.clock.advance(LONG)
        wait_in(await error_of(service.agent, ("create_call", confirmed)))  # as the probe has told
        service.clock.advance(LONG)
        steps["list"] = LISTED
        first = await service.agent.call("create_call", **confirmed)
        assert first["outcome"] == "done"
        steps["fetch"] = steps["list"] = answer(500)
        await service.fail()
        again = await service.agent.call("create_call", **confirmed)
        assert again["call"] == first["call"]
        assert len(upstream.changes) == 1


@pytest.mark.parametrize("confirm", ["none", "all"])
async def test_a_call_that_meets_an_open_circuit_takes_nothing_of_the_caps(
    tmp_path: Path, confirm: str
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[caps]\ncalls_per_day = 1\n", "utf-8")
    steps = by_kind(fetch=answer(500), list=LISTED, POST=answer(201, call()))
    async with (
        Upstream(steps) as upstream,
        serving(upstream.base_url, calls_mcp_confirm=confirm, calls_mcp_policy=policy) as service,
    ):
        arguments = placing()
        asked = await service.agent.call("create_call", **arguments) if confirm == "all" else {}
        if asked:
            arguments["confirmation_token"] = asked["confirmation"]["token"]
        await service.fail()
        for _ in range(2):
            wait_in(await error_of(service.agent, ("create_call", arguments)))
        service.clock.advance(LONG)
        assert (await service.agent.call("create_call", **arguments))["outcome"] == "done"
        assert len(upstream.changes) == 1


async def test_a_confirmation_that_comes_too_late_is_not_asked_to_wait_for_the_circuit() -> None:
    async with (
        Upstream(answer(500)) as upstream,
        serving(upstream.base_url, calls_mcp_confirm="all", calls_mcp_confirm_ttl=60) as service,
    ):
        asked = await service.agent.call("create_call", **placing())
        service.clock.advance(61)
        await service.fail()
        late = placing(confirmation_token=asked["confirmation"]["token"])
        assert (await service.agent.call("create_call", **late))["outcome"] == "expired"
        assert upstream.changes == []


def sids(amount: int) -> list[str]:
    return [f"CA{number:032x}" for number in range(amount)]


async def test_the_circuit_that_lost_answers_opened_lets_their_outcomes_be_found_out() -> None:
    lost, looked = Gate(drop, expected=5), Gate(GONE, expected=5)
    outcomes: list[dict[str, Any]] = []

    async def delete(sid: str) -> None:
        outcomes.append(await use(service.agent, ("delete_call", {"sid": sid})))

    async with scripted(by_kind(DELETE=lost, fetch=looked)) as (upstream, service):
        async with anyio.create_task_group() as tasks:
            for sid in sids(5):
                tasks.start_soon(delete, sid)
            await lost.full.wait()
            lost.opened.set()
            await looked.full.wait()
            wait_in(await error_of(service.agent, FETCH))
            looked.opened.set()
        assert [outcome["recovered"] for outcome in outcomes] == [True] * 5
        assert len(upstream.changes) == 5
        await error_of(service.agent, FETCH)
        assert len(upstream.requests) == 11  # the answers have closed it


async def test_a_look_for_an_outcome_is_repeated_though_the_circuit_is_open() -> None:
    lost = Gate(drop)
    outcome: dict[str, Any] = {}
    looks = iter([answer(500), answer(500), GONE])
    reads: list[Step] = [answer(500)]

    async def read(exchange: Exchange) -> None:
        await (next(looks) if lost.opened.is_set() else reads[0])(exchange)

    async def delete() -> None:
        outcome.update(await use(service.agent, DELETE))

    async with scripted(by_kind(DELETE=lost, fetch=read)) as (upstream, service):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete)
            await lost.full.wait()
            await service.fail()
            lost.opened.set()
        assert outcome["recovered"] is True
        assert len(upstream.changes) == 1


# Stalls


async def test_stalled_changes_and_lists_leave_fetches_alone() -> None:
    changes, lists = Gate(answer(201, call()), LANE), Gate(LISTED, LANE)
    everything = by_kind(POST=changes, list=lists, fetch=FOUND)
    async with scripted(everything) as (_, service), anyio.create_task_group() as tasks:
        for number in range(LANE + 2):
            tasks.start_soon(
                use, service.agent, ("create_call", placing(to=f"+150055502{number:02}"))
            )
            tasks.start_soon(use, service.agent, LIST)
        await changes.full.wait()
        await lists.full.wait()
        for _ in range(3):
            assert (await use(service.agent, FETCH))["outcome"] == "done"
        assert (changes.waiting, lists.waiting) == (LANE, LANE)
        changes.opened.set()
        lists.opened.set()
    assert (changes.waiting, lists.waiting) == (LANE + 2, LANE + 2)


async def test_looks_for_outcomes_are_not_held_up_by_stalled_reads() -> None:
    fetches = Gate(FOUND, LANE)
    removed = "CA" + "9" * 32

    async def read(exchange: Exchange) -> None:
        await (GONE if removed in exchange.request.target else fetches)(exchange)

    async with (
        scripted(by_kind(DELETE=drop, fetch=read)) as (_, service),
        anyio.create_task_group() as tasks,
    ):
        for _ in range(LANE + 1):
            tasks.start_soon(use, service.agent, FETCH)
        await fetches.full.wait()
        outcome = await use(service.agent, ("delete_call", {"sid": removed}))
        assert outcome["recovered"] is True
        fetches.opened.set()


@pytest.mark.parametrize(("tool", "lane"), [(DELETE, "changes"), (FETCH, "fetches")])
async def test_whoever_finds_no_free_connection_is_told_that_nothing_was_sent(
    tool: Tool, lane: str
) -> None:
    stalled = Gate(answer(400), LANE)
    async with (
        scripted(stalled, deadline=8) as (upstream, service),
        anyio.create_task_group() as tasks,
    ):
        for _ in range(LANE):
            tasks.start_soon(error_of, service.agent, tool)
        await stalled.full.wait()
        error = await error_of(service.agent, tool)
        assert (error["kind"], error["retryable"]) == ("unreachable", True)
        told = (
            rf"Nothing was sent: none of the {LANE} connections for {lane} was free within .* s\."
        )
        assert re.fullmatch(told, error["message"])
        assert len(upstream.requests) == LANE
        stalled.opened.set()


async def test_whoever_waits_for_a_connection_when_it_opens_is_refused() -> None:
    stalled = Gate(answer(400), LANE)
    refused: list[dict[str, Any]] = []

    async def wait_in_line() -> None:
        refused.append(await error_of(service.agent, LIST))

    everything = by_kind(list=stalled, fetch=answer(500))
    async with scripted(everything) as (_, service):
        async with anyio.create_task_group() as tasks:
            for _ in range(LANE):
                tasks.start_soon(error_of, service.agent, LIST)
            await stalled.full.wait()
            tasks.start_soon(wait_in_line)
            await anyio.wait_all_tasks_blocked()  # it is in the line
            await service.fail()
            stalled.step = drop
            stalled.opened.set()
        assert len(refused) == 1
        wait_in(refused[0])
        assert stalled.waiting == 4 * LANE  # those under way are tried to the end


# What is told of it


async def test_the_state_of_a_servers_circuit_is_measured_until_the_server_ends() -> None:
    with observing() as observatory:

        def measured() -> list[str]:
            counted = observatory.measured("calls_mcp.upstream.breakers")
            return [state for (state,), amount in counted.items() if amount == 1]

        async with scripted(*[answer(500)] * FAILING, FOUND) as (_, service):
            assert measured() == ["closed"]
            await service.fail()
            assert measured() == ["open"]
            service.clock.advance(LONG)
            assert measured() == ["half_open"]
            await use(service.agent, FETCH)
            assert measured() == ["closed"]
        assert measured() == []


# Readiness


async def test_it_is_ready_unless_the_api_is_being_left_alone() -> None:
    async with scripted(*[answer(500)] * FAILING, FOUND) as (_, service):
        assert await service.runtime.is_ready()
        await service.fail()
        assert not await service.runtime.is_ready()
        service.clock.advance(LONG)
        assert await service.runtime.is_ready()  # else nobody would send what closes it
        await use(service.agent, FETCH)
        assert await service.runtime.is_ready()


async def test_it_is_not_ready_without_its_store() -> None:
    with refusing() as nobody:
        url = nobody.replace("http://", "redis://") + "/0"
        async with serving(nobody, calls_mcp_state_url=url) as service:
            assert not await service.runtime.is_ready()
