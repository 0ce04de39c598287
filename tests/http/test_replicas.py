"""What replicas share through Redis and keys: confirmations, counters, and repeated calls."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from calls_mcp.emulator import Emulator, ManualClock
from calls_mcp.http.serving import ListenAddress, open_server
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from tests.harness import PERMISSIVE, Agent, User, access_to, placing
from tests.http.service import YES, Service, stubbed_service
from tests.storage.redis_server import RedisServer
from tests.upstream import SID, answer

pytestmark = pytest.mark.anyio

OLD, NEW = "o" * 32, "n" * 32


@asynccontextmanager
async def at(emulator: Emulator, redis_url: str, **settings: object) -> AsyncGenerator[Service]:
    """Start a replica with this emulator and Redis."""
    given = {
        "calls_mcp_policy": PERMISSIVE,
        "calls_mcp_state_url": redis_url,
        "calls_mcp_secret_keys": OLD,
        "calls_mcp_http_stateless": True,
    }
    access = access_to(emulator.base_url)
    async with (
        Runtime(load_settings(given | settings), access) as runtime,
        open_server(build_server(runtime), runtime, ListenAddress(port=0)) as service,
    ):
        yield Service(service.address.url)


@asynccontextmanager
async def pair(
    redis_url: str, *, second: Mapping[str, object] | None = None, **settings: object
) -> AsyncGenerator["Pair"]:
    """Start two replicas with `settings`; `second` overrides those of the second."""
    async with (
        Emulator() as emulator,
        at(emulator, redis_url, **settings) as one,
        at(emulator, redis_url, **(settings | {**(second or {})})) as two,
        one.connect() as first,
        two.connect() as other,
    ):
        yield Pair(emulator, one, two, first, other)


@dataclass
class Pair:
    """Two replicas with one emulator, and a client of each."""

    emulator: Emulator
    one: Service
    two: Service
    first: Agent
    second: Agent


@pytest.mark.parametrize(
    ("asking", "answering"),
    [(OLD, f"{OLD} {NEW}"), (f"{OLD} {NEW}", f"{NEW} {OLD}"), (f"{NEW} {OLD}", f"{OLD} {NEW}")],
    ids=["learning the new key", "signing with it", "not everywhere yet"],
)
async def test_rotating_keys_keeps_pending_confirmations(
    asking: str, answering: str, redis_url: str
) -> None:
    second = {"calls_mcp_secret_keys": answering}
    async with pair(redis_url, calls_mcp_secret_keys=asking, second=second) as both:
        asked = await both.first.call("create_call", **placing())
        token = asked["confirmation"]["token"]
        used = await both.second.call("create_call", **placing(), confirmation_token=token)
        assert used["outcome"] == "done"
        other = placing(to="+15005550206")  # which was not called under the other key
        state = (await both.one.tool("create_call", other))["requestState"]
        answered = await both.two.tool("create_call", other, requestState=state, inputResponses=YES)
        assert answered["structuredContent"]["outcome"] == "done"


async def test_a_retired_key_is_rejected(redis_url: str) -> None:
    async with pair(redis_url, second={"calls_mcp_secret_keys": NEW}) as both:
        asked = await both.first.call("create_call", **placing())
        token = asked["confirmation"]["token"]
        used = await both.second.call("create_call", **placing(), confirmation_token=token)
        assert used["error"]["kind"] == "invalid_confirmation"
        assert [entry for entry in both.emulator.requests if entry.method != "GET"] == []


async def test_caps_count_the_calls_of_all_replicas(tmp_path: Path, redis_url: str) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(PERMISSIVE.read_text("utf-8") + "calls_per_hour = 1\n", "utf-8")
    async with pair(redis_url, calls_mcp_policy=policy) as both:
        assert (await both.first.confirm("create_call", **placing()))["outcome"] == "done"
        refused = await both.second.call("create_call", **placing(to="+15005550206"))
        assert refused["error"]["kind"] == "policy_denied"


async def test_a_repeated_call_at_another_replica_needs_confirmation(redis_url: str) -> None:
    async with pair(redis_url, calls_mcp_policy=None, calls_mcp_confirm="none") as both:
        assert (await both.first.call("create_call", **placing()))["outcome"] == "done"
        again = await both.second.call("create_call", **placing())
        assert again["outcome"] == "confirmation_required"


async def test_requests_are_counted_across_replicas(redis_url: str) -> None:
    limits = {"calls_mcp_http_rate": 3}
    async with (
        Emulator() as emulator,
        at(emulator, redis_url, **limits) as one,
        at(emulator, redis_url, **limits) as two,
    ):
        statuses = [(await each.ask("tools/list")).status_code for each in (one, two, one, two)]
        assert statuses == [200, 200, 200, 429]


async def test_while_redis_is_down_each_replica_counts_requests_itself(
    own_redis: RedisServer,
) -> None:
    async with (
        Emulator() as emulator,
        at(emulator, own_redis.url, calls_mcp_http_rate=3) as one,
        at(emulator, own_redis.url, calls_mcp_http_rate=3) as two,
    ):
        assert (await one.ask("tools/list")).status_code == 200
        own_redis.stop()
        for each in (one, two):
            statuses = [(await each.ask("tools/list")).status_code for _ in range(4)]
            assert statuses == [200, 200, 200, 429]


async def test_many_readiness_checks_share_one_check_of_redis(
    own_redis: RedisServer,
) -> None:
    async with Emulator() as emulator, at(emulator, own_redis.url) as service:
        assert (await service.get("/readyz")).status_code == 200
        own_redis.stop()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(service.get, "/readyz")
        await _readiness_is(service, 503)


async def test_while_redis_is_down_changes_fail_and_reads_work(
    own_redis: RedisServer,
) -> None:
    async with (
        Emulator() as emulator,
        at(emulator, own_redis.url, calls_mcp_http_stateless=False) as service,
    ):
        for mode in ("auto", "legacy"):
            async with service.connect(mode, User()) as agent:
                assert (await service.get("/readyz")).status_code == 200
                own_redis.stop()
                refused = await agent.call("create_call", **placing())
                assert refused["error"]["kind"] == "store_unavailable"
                assert refused["error"]["retryable"]
                assert "CALLS_MCP_STATE_URL" in refused["error"]["hint"]
                assert (await agent.call("list_calls"))["outcome"] == "done"
                await _readiness_is(service, 503)
                assert (await service.get("/healthz")).status_code == 200
                own_redis.start()
                await _readiness_is(service, 200)
                placed = await agent.call("create_call", **placing())
                assert placed["outcome"] == "done"


async def test_a_server_with_an_open_circuit_breaker_is_not_ready() -> None:
    async with stubbed_service(answer(404), monotonic=ManualClock(0)) as service:
        assert (await service.get("/readyz")).json() == {"ready": True}
        service.upstream.leave()
        async with service.connect() as agent, anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(_fetch, agent)
        await _readiness_is(service, 503)
        assert (await service.get("/readyz")).json() == {"ready": False}
        assert (await service.get("/healthz")).status_code == 200


async def _readiness_is(service: Service, status: int) -> None:
    """Wait until /readyz answers with this status."""
    while (await service.get("/readyz")).status_code != status:
        pass


async def _fetch(agent: Agent) -> None:
    assert (await agent.call("fetch_call", sid=SID))["outcome"] == "error"
