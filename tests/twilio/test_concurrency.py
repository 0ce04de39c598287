"""Many requests at once: stalled ones don't block others, and every wait ends."""

import re
import time
from dataclasses import replace

import anyio
import httpx
import pytest

from calls_mcp.twilio import transport
from calls_mcp.twilio.client import ClientPool
from calls_mcp.twilio.requests import Request
from calls_mcp.twilio.transport import Connections
from tests.harness import ACCOUNT, placing
from tests.twilio.harness import (
    DELETE,
    FETCH,
    FOUND,
    GONE,
    HANG_UP,
    LIST,
    LISTED,
    PLACED,
    HeldStep,
    by_kind,
    scripted,
)
from tests.until import until
from tests.upstream import Exchange, Tool, Upstream, access, answer, call, drop, error_of, use

pytestmark = pytest.mark.anyio

AT_ONCE = 16


def new_call(number: int) -> Tool:
    return ("create_call", placing(to=f"+150055502{number:02}"))


async def test_stalled_changes_do_not_delay_reads_or_hang_ups() -> None:
    stalled = HeldStep(PLACED, AT_ONCE)

    async def play(exchange: Exchange) -> None:
        is_new = exchange.request.target.endswith("Calls.json")
        await (stalled if is_new else answer(200, call(status="completed")))(exchange)

    everything = by_kind(POST=play, list=LISTED, fetch=answer(200, call(status="in-progress")))
    async with scripted(everything) as (_, service), anyio.create_task_group() as tasks:
        for number in range(AT_ONCE + 2):
            tasks.start_soon(use, service.agent, new_call(number))
        await stalled.all_waiting.wait()
        for tool in (FETCH, LIST, HANG_UP):
            assert (await use(service.agent, tool))["outcome"] == "done"
        assert stalled.waiting == AT_ONCE
        stalled.released.set()
    assert stalled.waiting == AT_ONCE + 2


async def test_stalled_reads_do_not_delay_changes_or_lookups() -> None:
    stalled = HeldStep(FOUND, AT_ONCE)
    removed = "CA" + "9" * 32

    async def read(exchange: Exchange) -> None:
        await (GONE if removed in exchange.request.target else stalled)(exchange)

    everything = by_kind(DELETE=drop, fetch=read)
    async with scripted(everything) as (_, service), anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE + 1):
            tasks.start_soon(use, service.agent, FETCH)
        await stalled.all_waiting.wait()
        outcome = await use(service.agent, ("delete_call", {"sid": removed}))
        assert outcome["recovered"] is True
        stalled.released.set()


@pytest.mark.parametrize(("tool", "kind"), [(DELETE, "changes"), (FETCH, "reads")])
async def test_a_request_that_waits_half_of_its_time_fails_unsent(tool: Tool, kind: str) -> None:
    stalled = HeldStep(answer(400), AT_ONCE)
    async with (
        scripted(stalled, deadline=4) as (upstream, service),
        anyio.create_task_group() as tasks,
    ):
        for _ in range(AT_ONCE):
            tasks.start_soon(error_of, service.agent, tool)
        await stalled.all_waiting.wait()
        error = await error_of(service.agent, tool)
        assert (error["kind"], error["retryable"]) == ("unreachable", True)
        told = (
            rf"Nothing was sent: all {AT_ONCE} connections for {kind} were busy "
            r"for [12](\.\d)? s\."
        )
        assert re.fullmatch(told, error["message"])
        assert len(upstream.requests) == AT_ONCE
        stalled.released.set()


async def test_a_cancelled_request_frees_its_slot() -> None:
    stalled = HeldStep(answer(200, call(), headers={"Connection": "close"}), AT_ONCE)
    async with scripted(stalled) as (_, service), anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(use, service.agent, FETCH)
        await stalled.all_waiting.wait()
        async with anyio.create_task_group() as waiting:
            for _ in range(2 * AT_ONCE):
                waiting.start_soon(use, service.agent, FETCH)
            await anyio.wait_all_tasks_blocked()
            stalled.released.set()  # at the same moment as they give up
            waiting.cancel_scope.cancel()
        async with anyio.create_task_group() as others:
            for _ in range(AT_ONCE):
                others.start_soon(use, service.agent, FETCH)


async def test_connections_are_reused_and_closed_once_they_are_not_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = HeldStep(FOUND, 3)
    async with scripted(together) as (upstream, service):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(use, service.agent, FETCH)
            await together.all_waiting.wait()
            together.released.set()
        for _ in range(3):
            await use(service.agent, FETCH)
        assert (upstream.connections, upstream.open_connections) == (3, 3)
        monkeypatch.setattr(transport, "_IDLE", -1)
        for _ in range(2):
            await use(service.agent, FETCH)
        await until(lambda: upstream.open_connections == 1)
        assert upstream.connections == 3


def get(upstream: Upstream, cancelled: anyio.CancelScope | None = None) -> httpx.Request:
    """Return a request that is cancelled once it is connected, if `cancelled` is given."""

    async def trace(event: str, _: object) -> None:
        if cancelled and event == "connection.connect_tcp.complete":
            cancelled.cancel()

    return httpx.Request("GET", upstream.base_url, extensions={"trace": trace})


async def test_a_request_that_is_cancelled_once_it_is_connected_leaves_no_connection() -> None:
    async with Upstream(FOUND) as upstream:
        connections = Connections(access(upstream.base_url))
        for number in range(1, 4):
            with anyio.CancelScope() as cancelled:
                async with connections.transport() as one:
                    await one.handle_async_request(get(upstream, cancelled))
            await until(lambda: upstream.connections == number)  # noqa: B023  # it is awaited
        await until(lambda: upstream.open_connections == 0)


async def test_a_connection_that_is_in_use_is_closed_after_its_request() -> None:
    async with Upstream(FOUND) as upstream:
        connections = Connections(access(upstream.base_url))
        async with connections.transport() as one:
            await connections.aclose()
            response = await one.handle_async_request(get(upstream))
            await response.aread()
        await until(lambda: upstream.open_connections == 0)


async def test_clients_can_be_closed_twice_at_once() -> None:
    async with Upstream(FOUND) as upstream, anyio.create_task_group() as tasks:
        pool = ClientPool(time.monotonic)
        for number in range(3):
            client = pool.client(replace(access(upstream.base_url), username=f"SK{number}"))
            await client.send(Request("read", "GET", "/x", ACCOUNT))
        for _ in range(2):
            tasks.start_soon(pool.aclose)
