"""Clients that wait for calls over HTTP: what they share, and what they may see."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import MCPError

from calls_mcp.emulator import ManualClock
from tests.harness import ERAS, Era
from tests.http.service import EVERYTHING, by_tokens, entry, open_service, principals, write
from tests.http.test_notifications import OWN, account_of, service_with_tokens
from tests.service.test_wait_until import END, QUICK, begin
from tests.subscriptions import left_alone, looked, looks
from tests.until import until
from tests.upstream import SECRET, SID

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ERAS)
async def test_waits_for_a_call_share_one_poll(tmp_path: Path, era: Era) -> None:
    file = principals(tmp_path / "p.toml", "alice", "bob", "carol")
    async with (
        open_service(token="alice", **by_tokens(file, **QUICK)) as service,
        service.of("alice").connect(era) as alice,
        service.of("bob").connect(era) as bob,
        service.of("carol").connect(era) as carol,
        anyio.create_task_group() as tasks,
    ):
        agents = (alice, bob, carol)
        crowded, lonely = await service.place(), await service.place()
        many = [begin(tasks, a, crowded, wait_until="ended") for a in agents for _ in range(3)]
        one = begin(tasks, agents[0], lonely, wait_until="ended")
        await looked(service.harness, crowded, len(many))
        await looked(service.harness, lonely, 2)
        before = looks(service.harness, crowded), looks(service.harness, lonely)
        await looked(service.harness, lonely, 20)
        many_looks = looks(service.harness, crowded) - before[0]
        assert many_looks < 3 * (looks(service.harness, lonely) - before[1])
        service.harness.clock.advance(END)
        for waiter in (*many, one):
            assert waiter.reported[0] == "queued"
            assert (await waiter.result())["call"]["status"] == "completed"


@pytest.mark.parametrize("era", ERAS)
async def test_a_wait_ends_when_the_client_disconnects(era: Era) -> None:
    async with open_service(**QUICK) as service:
        sid = await service.place()
        async with service.connect(era) as agent, anyio.create_task_group() as tasks:
            begin(tasks, agent, sid, wait_until="ended")
            await looked(service.harness, sid, 3)
            tasks.cancel_scope.cancel()
        assert await left_alone(service.harness, sid)


async def test_a_wait_sees_only_the_calls_of_its_own_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_SECRET", SECRET)
    both = (entry("a", "alice", *EVERYTHING), entry("b", "bob", *EVERYTHING))
    file = write(tmp_path / "p.toml", *both, account_of("alice", "OWN_SECRET", OWN))
    async with (
        service_with_tokens(file, ManualClock(1_700_000_000)) as service,
        service.of("b").connect() as bob,
        service.of("a").connect() as alice,
        anyio.create_task_group() as tasks,
    ):
        waiter = begin(tasks, bob, SID, wait_until="ended")
        await until(lambda: len(service.upstream.requests) >= 3)
        refused = await alice.call("fetch_call", sid=SID, wait_until="ended")
        assert refused["error"]["kind"] == "not_found"
        assert not waiter.done.is_set()
        tasks.cancel_scope.cancel()


async def test_a_wait_ends_when_the_token_expires(tmp_path: Path) -> None:
    file = write(tmp_path / "p.toml", entry("a", "alice", *EVERYTHING))
    clock = ManualClock(1_700_000_000)
    async with (
        service_with_tokens(file, clock) as service,
        service.of("a").connect() as alice,
        anyio.create_task_group() as tasks,
    ):
        waiter = begin(tasks, alice, SID, wait_until="ended")
        await until(lambda: len(service.upstream.requests) >= 3)
        clock.advance(datetime.now(UTC).timestamp() + 2 * 86_400 - clock())
        outcome = await waiter.result()
        assert outcome["call"]["status"] == "in-progress"
        assert outcome["warnings"] == ["the server stopped waiting before the time was up"]


async def test_a_shutdown_answers_waiting_clients_immediately() -> None:
    async with (
        open_service(**QUICK) as service,
        service.connect() as agent,
        anyio.create_task_group() as tasks,
    ):
        sid = await service.place()
        waiter = begin(tasks, agent, sid, wait_until="ended")
        await looked(service.harness, sid, 3)
        await service.server.stop(30)
        outcome = await waiter.result()
        assert outcome["call"]["status"] == "queued"
        assert outcome["warnings"] == ["the server stopped waiting before the time was up"]


async def test_a_wait_above_the_limit_reads_the_call_once_and_says_so(tmp_path: Path) -> None:
    file = principals(tmp_path / "p.toml", "alice")
    async with (
        open_service(token="alice", **by_tokens(file, calls_mcp_watches=4, **QUICK)) as service,
        service.connect() as agent,
        anyio.create_task_group() as tasks,
    ):
        sid = await service.place()
        begin(tasks, agent, sid, wait_until="ended")
        await looked(service.harness, sid, 3)
        outcome = await agent.call("fetch_call", sid=sid, wait_until="ended")
        assert outcome["call"]["status"] == "queued"
        assert "watches too many calls" in outcome["warnings"][0]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("setting", ["concurrency", "concurrency_in_all"])
async def test_waits_are_limited_and_do_not_block_reads(setting: str) -> None:
    limit: dict[str, Any] = {f"calls_mcp_http_{setting}": 1}
    async with (
        open_service(**QUICK, **limit) as service,
        service.connect() as agent,
        anyio.create_task_group() as tasks,
    ):
        sid = await service.place()
        begin(tasks, agent, sid, wait_until="ended")
        await looked(service.harness, sid, 3)
        assert (await agent.call("fetch_call", sid=sid))["call"]["status"] == "queued"
        with pytest.raises(
            MCPError, match="Too many concurrent calls with wait_until; nothing was done"
        ):
            await agent.call("fetch_call", sid=sid, wait_until="ended")
        tasks.cancel_scope.cancel()
