"""Many requests at once: stalled ones don't block others, and every wait ends."""

import re

import anyio
import pytest

from tests.harness import placing
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
from tests.upstream import Exchange, Tool, answer, call, drop, error_of, use

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
