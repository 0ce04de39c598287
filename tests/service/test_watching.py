"""Notifications of changes of live calls, in both protocol versions.

In memory, each client has its own server, as on stdio. `tests/http/test_notifications.py` tests
what clients of one server share.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from mcp import Client, MCPError
from mcp.server.context import CallNext, HandlerResult

from calls_mcp.emulator import Fault
from calls_mcp.server.handlers import build_server
from calls_mcp.server.permissions import Context, connection_of
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from tests.harness import ACCOUNT, ERAS, Era, Harness, open_harness
from tests.subscriptions import (
    in_memory,
    left_alone,
    looked,
    looks,
    over_stdio,
    subscribe,
    subscribed,
    unsubscribe,
)
from tests.upstream import Exchange, Upstream, access, answer, call

if TYPE_CHECKING:
    from mcp.server.connection import Connection

pytestmark = pytest.mark.anyio

TALK = 10  # seconds after which the callee has answered


def quick(**settings: object) -> AbstractAsyncContextManager[Harness]:
    """A harness whose server checks calls all the time."""
    return open_harness(sandbox=False, calls_mcp_watch_interval=0.01, **settings)


@pytest.fixture
async def harness() -> AsyncGenerator[Harness]:
    async with quick() as harness:
        yield harness


def uri_of(sid: str) -> str:
    return f"calls://call/{sid}"


async def placed(harness: Harness) -> str:
    async with harness.connect(name="placing") as agent:
        return await agent.place()


async def status(harness: Harness, sid: str) -> str:
    async with harness.connect(name="looking") as agent:
        return (await agent.call("fetch_call", sid=sid))["call"]["status"]


@pytest.mark.parametrize("era", ERAS)
async def test_each_change_of_a_live_call_is_notified_until_it_ends(
    era: Era, harness: Harness
) -> None:
    sid = await placed(harness)
    async with subscribed(in_memory(harness), era, uri_of(sid)) as news:
        harness.clock.advance(TALK)
        assert await news.next() == uri_of(sid)
        assert await status(harness, sid) == "in-progress"
        harness.clock.advance(2 * 3600)
        assert await news.next() == uri_of(sid)
        assert await status(harness, sid) == "completed"
        if era != "legacy":
            assert await news.rest() == []
        assert await left_alone(harness, sid)


@pytest.mark.process
@pytest.mark.parametrize("era", ERAS)
async def test_changes_are_notified_over_stdio(era: Era, harness: Harness) -> None:
    sid = await placed(harness)
    connect = over_stdio(
        TWILIO_ACCOUNT_SID=ACCOUNT,
        TWILIO_AUTH_TOKEN=harness.emulator.account.auth_token,
        CALLS_MCP_API_BASE_URL=harness.emulator.base_url,
        CALLS_MCP_WATCH_INTERVAL="0.05",
    )
    async with subscribed(connect, era, uri_of(sid)) as news:
        for seconds in (TALK, 2 * 3600):
            harness.clock.advance(seconds)
            assert await news.next() == uri_of(sid)
    assert await left_alone(harness, sid)


@pytest.mark.parametrize("era", ERAS)
async def test_an_ended_call_causes_one_last_notification(era: Era, harness: Harness) -> None:
    sid = await placed(harness)
    harness.clock.advance(2 * 3600)
    async with subscribed(in_memory(harness), era, uri_of(sid)) as news:
        assert await news.next() == uri_of(sid)
        assert looks(harness, sid) == 1


async def test_a_stream_ends_once_all_its_calls_have(harness: Harness) -> None:
    uris = [uri_of(await placed(harness)), uri_of(await placed(harness))]
    async with subscribed(in_memory(harness), "auto", *uris) as news:
        harness.clock.advance(2 * 3600)
        assert {*await news.rest()} == {*uris}


@pytest.mark.parametrize("era", ERAS)
async def test_a_deleted_record_causes_one_last_notification(era: Era, harness: Harness) -> None:
    sid = await placed(harness)
    async with subscribed(in_memory(harness), era, uri_of(sid)) as news:
        harness.emulator.reset()
        assert await news.next() == uri_of(sid)


async def test_an_older_client_can_unsubscribe(harness: Harness) -> None:
    sid = await placed(harness)
    async with in_memory(harness)("legacy", None) as client:
        for _ in range(2):
            await subscribe(client, uri_of(sid))
        await looked(harness, sid, 2)
        for _ in range(2):
            await unsubscribe(client, uri_of(sid))
        assert await left_alone(harness, sid)


@pytest.mark.parametrize("era", ERAS)
async def test_a_subscription_outlasts_a_failure_of_the_api(era: Era, harness: Harness) -> None:
    sid = await placed(harness)
    async with subscribed(in_memory(harness), era, uri_of(sid)) as news:
        harness.emulator.faults.add(Fault(kind="error", status=401, method="GET", requests=3))
        harness.clock.advance(TALK)
        assert await news.next() == uri_of(sid)
    assert not harness.emulator.faults.armed


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("calls://call/CA12", "is not a call SID"),
        (uri_of("CA" + "0" * 32), "not_found"),
        ("calls://calls", "Unknown resource"),
    ],
)
async def test_a_missing_call_cannot_be_watched(
    harness: Harness, era: Era, uri: str, complaint: str
) -> None:
    async with in_memory(harness)(era, None) as client:
        listening = client.listen(resource_subscriptions=[uri])
        ask = partial(subscribe, client, uri) if era == "legacy" else listening.__aenter__
        with pytest.raises(MCPError, match=complaint) as refusal:
            await ask()
    assert refusal.value.code == -32602
    assert refusal.value.error.data["uri"] == uri


async def test_a_stream_acknowledges_only_what_it_supports(harness: Harness) -> None:
    good, connect = uri_of(await placed(harness)), in_memory(harness)
    asked = [good, "calls://policy", "calls://call/CA12", good]
    async with (
        connect("auto", None) as client,
        client.listen(resource_subscriptions=asked, tools_list_changed=True) as subscription,
    ):
        assert subscription.honored.resource_subscriptions == [good]
        assert subscription.honored.tools_list_changed is None


@pytest.mark.parametrize("lists", [True, False], ids=["a list", "nothing"])
async def test_a_stream_without_supported_subscriptions_ends_immediately(
    harness: Harness, *, lists: bool
) -> None:
    async with (
        in_memory(harness)("auto", None) as client,
        client.listen(tools_list_changed=lists) as subscription,
    ):
        assert [event async for event in subscription] == []


async def test_subscribing_to_a_constant_resource_is_accepted(harness: Harness) -> None:
    async with in_memory(harness)("legacy", None) as client:
        await subscribe(client, "calls://policy")
        assert harness.reads == []


@pytest.mark.parametrize("era", ERAS)
async def test_one_principal_has_at_most_a_quarter_of_the_subscriptions(era: Era) -> None:
    async with open_harness(calls_mcp_watches=8) as harness:
        sids = [await placed(harness) for _ in range(3)]
        uris = [*map(uri_of, sids)]
        connect = in_memory(harness)
        if era == "legacy":
            async with connect(era, None) as client:
                await subscribe(client, uris[0])
                await subscribe(client, uris[1])
                with pytest.raises(MCPError, match="Too many subscriptions"):
                    await subscribe(client, uris[2])
                await unsubscribe(client, uris[0])
                await anyio.wait_all_tasks_blocked()
                await subscribe(client, uris[2])
        else:
            async with (
                connect(era, None) as client,
                client.listen(resource_subscriptions=uris) as subscription,
            ):
                assert subscription.honored.resource_subscriptions == uris[:2]
                assert looks(harness, sids[2]) == 0


async def test_first_reads_run_concurrently_up_to_a_limit() -> None:
    at_once, most, are_four = 0, 0, anyio.Event()

    async def told(exchange: Exchange) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if at_once == 4:
            are_four.set()
        await are_four.wait()
        await anyio.wait_all_tasks_blocked()
        at_once -= 1
        await answer(200, call(status="in-progress"))(exchange)

    uris = [uri_of(f"CA{n:032x}") for n in range(12)]
    async with (
        Upstream(told) as upstream,
        Runtime(load_settings({}), access(upstream.base_url, timeout=60, deadline=60)) as runtime,
        Client(build_server(runtime), cache=None) as client,
    ):
        with anyio.fail_after(30):
            async with client.listen(resource_subscriptions=uris) as subscription:
                assert subscription.honored.resource_subscriptions == uris
    assert most == 4


async def test_first_reads_count_against_the_rate_limit(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[caps]\nreads_per_minute = 3\n[destinations]\n", "utf-8")
    async with open_harness(calls_mcp_policy=policy) as harness:
        uris = [uri_of(f"CA{n:032x}") for n in range(10)]
        async with in_memory(harness)("auto", None) as client:
            with pytest.raises(MCPError, match="not_found"):
                await client.listen(resource_subscriptions=uris).__aenter__()
        assert len(harness.reads) == 3


async def test_a_connection_does_not_keep_ended_subscriptions(
    harness: Harness,
) -> None:
    connections: set[Connection] = set()

    async def noticing(ctx: Context, call_next: CallNext) -> HandlerResult:
        connections.add(connection_of(ctx))
        return await call_next(ctx)

    harness.server.middleware.append(noticing)
    sids = [await placed(harness) for _ in range(5)]
    harness.clock.advance(2 * 3600)
    connections.clear()
    async with subscribed(in_memory(harness), "legacy", *map(uri_of, sids)) as news:
        assert {await news.next() for _ in sids} == {*map(uri_of, sids)}
        await anyio.wait_all_tasks_blocked()
        (connection,) = connections
        assert not any(connection.state.values())


async def test_reads_for_a_subscription_count_against_its_principal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[caps]\nreads_per_minute = 3\n[destinations]\n", "utf-8")
    async with quick(calls_mcp_policy=policy) as harness:
        sid = await placed(harness)
        async with subscribed(in_memory(harness), "auto", uri_of(sid)):
            await looked(harness, sid, 2)
            async with in_memory(harness)("auto", None) as client:
                with pytest.raises(MCPError, match="3 reads a minute is reached"):
                    await client.read_resource(uri_of(sid))
        assert looks(harness, sid) == 3
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
