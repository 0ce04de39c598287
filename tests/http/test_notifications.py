"""Resources, subscriptions and completion over HTTP: access, and how subscriptions end."""

import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from mcp import MCPError
from mcp_types import PromptReference, ResourceTemplateReference
from starlette.responses import Response

from calls_mcp.emulator import ManualClock
from tests.harness import ACCOUNT, ERAS, Era
from tests.http.issuer import EC_KEY, issuing, public
from tests.http.service import (
    EVERYTHING,
    Client2026,
    LocalService,
    StubbedService,
    by_tokens,
    challenge,
    entry,
    in_session,
    open_service,
    principals,
    stubbed_service,
    write,
)
from tests.subscriptions import left_alone, looked, looks, over_http, subscribe, subscribed
from tests.until import until
from tests.upstream import SECRET, SID, Exchange, Request, Upstream, answer, call

pytestmark = pytest.mark.anyio

QUICK = 0.01  # seconds between polls
TALK = 10  # seconds after which the callee has answered
OTHERS = SECRET[::-1]
OWN = "AC" + "7" * 32
URI = f"calls://call/{SID}"


@pytest.fixture
async def service() -> AsyncGenerator[LocalService]:
    """A service that polls calls every 10 ms."""
    async with open_service(calls_mcp_watch_interval=QUICK) as service:
        yield service


async def test_subscribers_of_a_call_share_one_poll(tmp_path: Path) -> None:
    tokens = ("alice", "bob", "carol")
    async with open_service(
        token="alice",
        **by_tokens(principals(tmp_path / "p.toml", *tokens), calls_mcp_watch_interval=QUICK),
    ) as service:
        crowded, lonely = await service.place(), await service.place()
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            everybody = [
                await enter(
                    subscribed(over_http(service.url, token), era, f"calls://call/{crowded}")
                )
                for token in tokens
                for era in ERAS
            ]
            await enter(subscribed(over_http(service.url, "bob"), "auto", f"calls://call/{lonely}"))
            before = looks(service.harness, crowded), looks(service.harness, lonely)
            await looked(service.harness, lonely, 20)
            assert looks(service.harness, crowded) - before[0] < 3 * (
                looks(service.harness, lonely) - before[1]
            )
            service.harness.clock.advance(2 * 3600)
            for news in everybody:
                assert await news.next() == f"calls://call/{crowded}"


@pytest.mark.parametrize("era", ERAS)
async def test_watches_are_limited_in_total(tmp_path: Path, era: Era) -> None:
    tokens = [f"token-{n}" for n in range(5)]
    async with open_service(
        token=tokens[0], **by_tokens(principals(tmp_path / "p.toml", *tokens), calls_mcp_watches=4)
    ) as service:
        uri = f"calls://call/{await service.place()}"
        async with AsyncExitStack() as stack:
            for token in tokens[:4]:
                await stack.enter_async_context(subscribed(over_http(service.url, token), era, uri))
            async with over_http(service.url, tokens[4])("auto", None) as last:
                with pytest.raises(MCPError, match="Too many subscriptions"):
                    await last.listen(resource_subscriptions=[uri]).__aenter__()


@pytest.mark.parametrize("era", ERAS)
async def test_polling_stops_when_the_client_disconnects(era: Era, service: LocalService) -> None:
    sid = await service.place()
    async with subscribed(over_http(service.url), era, f"calls://call/{sid}"):
        await looked(service.harness, sid, 2)
    assert await left_alone(service.harness, sid)


async def test_a_shutdown_ends_subscriptions_cleanly_and_rejects_new_ones(
    service: LocalService,
) -> None:
    uri = f"calls://call/{await service.place()}"
    async with subscribed(over_http(service.url), "auto", uri) as news:
        await service.server.stop(30)
        assert await news.rest() == []
    raw, filters = Client2026(), {"resourceSubscriptions": [uri]}
    refused = await service.post(
        raw.body("subscriptions/listen", notifications=filters),
        raw.headers("subscriptions/listen"),
    )
    assert refused.status_code == 503


async def test_a_shutdown_does_not_wait_for_subscriptions(service: LocalService) -> None:
    uri = f"calls://call/{await service.place()}"
    async with subscribed(over_http(service.url), "auto", uri) as news:
        with anyio.fail_after(30):
            await service.server.shutdown.idle()
        service.harness.clock.advance(2 * 3600)
        assert await news.next() == uri


async def test_a_stateless_server_does_not_offer_subscriptions_to_older_clients() -> None:
    async with open_service(
        calls_mcp_http_stateless=True, calls_mcp_watch_interval=QUICK
    ) as service:
        uri = f"calls://call/{await service.place()}"
        connect = over_http(service.url)
        async with connect("legacy", None) as client:
            resources = client.server_capabilities.resources
            assert resources is not None
            assert resources.subscribe is False
            with pytest.raises(MCPError, match="keeps no sessions") as refusal:
                await subscribe(client, uri)
            assert refusal.value.code == -32601
        async with subscribed(connect, "auto", uri) as news:
            service.harness.clock.advance(2 * 3600)
            assert await news.next() == uri


async def test_polling_stops_when_the_session_is_deleted(service: LocalService) -> None:
    sid, headers = await service.place(), in_session(await service.open_session())
    await _subscribe_by_post(service, f"calls://call/{sid}", headers)
    async with _updates(service, headers), service.http() as http:
        await looked(service.harness, sid, 2)
        assert (await http.delete(service.url, headers=headers)).status_code == 200
    assert await left_alone(service.harness, sid)


async def test_a_session_without_a_stream_is_not_polled_for(service: LocalService) -> None:
    sid, headers = await service.place(), in_session(await service.open_session())
    await _subscribe_by_post(service, f"calls://call/{sid}", headers)
    assert await left_alone(service.harness, sid)
    assert looks(service.harness, sid) == 1
    async with _updates(service, headers):
        await looked(service.harness, sid, 2)
    assert await left_alone(service.harness, sid)


async def test_a_reopened_stream_polls_immediately() -> None:
    async with open_service(calls_mcp_watch_interval=3600) as service:
        uri = f"calls://call/{await service.place()}"
        headers = in_session(await service.open_session())
        await _subscribe_by_post(service, uri, headers)
        for seconds in (TALK, 2 * 3600):
            service.harness.clock.advance(seconds)
            async with _updates(service, headers) as updated:
                assert await updated() == uri


async def test_a_missed_update_is_sent_when_the_stream_opens(
    service: LocalService,
) -> None:
    uri = f"calls://call/{await service.place()}"
    headers = in_session(await service.open_session())
    await _subscribe_by_post(service, uri, headers)
    async with subscribed(over_http(service.url), "auto", uri) as news:
        service.harness.clock.advance(2 * 3600)
        assert await news.rest() == [uri]
    async with _updates(service, headers) as updated:
        assert await updated() == uri


@pytest.mark.parametrize("era", ERAS)
async def test_a_rate_limited_client_does_not_delay_others(tmp_path: Path, era: Era) -> None:
    (tmp_path / "slow.toml").write_text("[caps]\nreads_per_minute = 40\n", "utf-8")
    everybody = [entry(name, name, *EVERYTHING) for name in ("mallory", "bob")]
    file = write(tmp_path / "p.toml", *everybody, '[principals.mallory]\npolicy = "slow.toml"\n')
    async with (
        open_service(token="bob", **by_tokens(file, calls_mcp_watch_interval=0.05)) as service,
        AsyncExitStack() as stack,
    ):
        sid = await service.place()
        uri = f"calls://call/{sid}"
        mallory = await stack.enter_async_context(service.of("mallory").connect())
        for _ in range(20):
            await stack.enter_async_context(mallory.client.listen(resource_subscriptions=[uri]))
        news = await stack.enter_async_context(subscribed(over_http(service.url, "bob"), era, uri))
        while "error" not in await mallory.call("fetch_call", sid=sid):
            pass
        await looked(service.harness, sid, 5)
        service.harness.clock.advance(TALK)
        assert await news.next() == uri


async def theirs_alone(exchange: Exchange) -> None:
    """Answer with a call in progress for one account, and with 404 for others."""
    is_theirs = exchange.request.target.split("/")[3] == ACCOUNT
    step = answer(200, call(status="in-progress")) if is_theirs else answer(404)
    await step(exchange)


def service_with_tokens(
    file: Path, clock: ManualClock, **settings: object
) -> AbstractAsyncContextManager[StubbedService]:
    """Start a service, backed by a stub that answers with `theirs_alone`."""
    given = by_tokens(file, calls_mcp_watch_interval=QUICK, **settings)
    return stubbed_service(theirs_alone, clock=clock, **given)


async def test_resources_and_completion_need_scopes(tmp_path: Path) -> None:
    file = write(tmp_path / "p.toml", entry("placer", "alice", "calls:place"))
    async with open_service(token="placer", **by_tokens(file)) as service:
        async with service.connect() as agent:
            client = agent.client
            listed = await client.list_resources()
            assert [r.uri for r in listed.resources] == [
                "calls://docs/create_call",
                "calls://policy",
            ]
            assert (listed.ttl_ms, listed.cache_scope) == (0, "private")
            templates = (await client.list_resource_templates()).resource_templates
            assert [t.uri_template for t in templates] == ["calls://docs/{tool}"]
            with pytest.raises(MCPError, match="insufficient_scope"):
                await client.read_resource("calls://docs/fetch_call")
            with pytest.raises(MCPError, match="insufficient_scope: fetch_call needs calls:read"):
                await client.listen(resource_subscriptions=[URI]).__aenter__()
            ref = ResourceTemplateReference(uri="calls://call/{sid}")
            with pytest.raises(MCPError, match="insufficient_scope"):
                await client.complete(ref, {"name": "sid", "value": ""})
            tools = ResourceTemplateReference(uri="calls://docs/{tool}")
            found = await client.complete(tools, {"name": "tool", "value": ""})
            assert found.completion.values == ["create_call"]
            with pytest.raises(MCPError, match="Unknown prompt"):
                await client.complete(
                    PromptReference(name="end_call"), {"name": "sid", "value": ""}
                )
        raw = Client2026()
        forbidden = await service.post(
            raw.body("resources/read", uri=URI), raw.headers("resources/read", URI)
        )
        assert forbidden.status_code == 403
        assert challenge(forbidden)["scope"] == "calls:read"
        assert service.harness.reads == []


@pytest.mark.parametrize("era", ERAS)
async def test_principals_read_and_watch_calls_in_their_own_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, era: Era
) -> None:
    monkeypatch.setenv("ALICES_SECRET", SECRET)
    (tmp_path / "strict.toml").write_text('[confirm]\nplace = "deny"\n', "utf-8")
    own = (
        f'[principals.alice]\naccount_sid = "{OWN}"\nauth_token_env = "ALICES_SECRET"\n'
        'policy = "strict.toml"\n'
    )
    both = (entry("a", "alice", *EVERYTHING), entry("b", "bob", *EVERYTHING))
    file = write(tmp_path / "p.toml", *both, own)
    async with service_with_tokens(file, ManualClock(1_700_000_000)) as service:
        async with (
            subscribed(over_http(service.url, "b"), era, URI),
            over_http(service.url, "b")(era, None) as bob,
            over_http(service.url, "a")(era, None) as alice,
        ):
            assert "in-progress" in str(await bob.read_resource(URI))
            listening = alice.listen(resource_subscriptions=[URI]).__aenter__
            with pytest.raises(MCPError, match="not_found"):
                await (subscribe(alice, URI) if era == "legacy" else listening())
            with pytest.raises(MCPError, match="not_found"):
                await alice.read_resource(URI)
            assert "Placing a call is refused" in str(await alice.read_resource("calls://policy"))
            assert "Placing a call is refused" not in str(await bob.read_resource("calls://policy"))
        accounts = [request.target.split("/")[3] for request in service.upstream.requests]
        assert accounts.count(OWN) == 2


@pytest.mark.parametrize("era", ERAS)
async def test_subscriptions_end_when_the_token_expires(tmp_path: Path, era: Era) -> None:
    file = write(tmp_path / "p.toml", entry("a", "alice", *EVERYTHING))
    clock = ManualClock(1_700_000_000)
    async with (
        service_with_tokens(file, clock) as service,
        subscribed(over_http(service.url, "a"), era, URI) as news,
    ):
        await _asked(service.upstream, 3)
        clock.advance((datetime.now(UTC) + timedelta(days=2)).timestamp() - clock())
        if era != "legacy":
            assert await news.rest() == []
        before = len(service.upstream.requests)
        async with over_http(service.url, "a")("auto", None) as client:
            for _ in range(20):
                await client.read_resource("calls://policy")
        assert len(service.upstream.requests) <= before + 1


@pytest.mark.parametrize("era", ERAS)
async def test_polling_uses_the_principals_current_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, era: Era
) -> None:
    monkeypatch.setenv("OLD_SECRET", SECRET)
    monkeypatch.setenv("NEW_SECRET", OTHERS)
    file = tmp_path / "p.toml"
    token = entry("a", "alice", *EVERYTHING)
    write(file, token, account_of("alice", "OLD_SECRET"))
    async with (
        service_with_tokens(file, ManualClock(1_700_000_000)) as service,
        subscribed(over_http(service.url, "a"), era, URI),
    ):
        await _asked(service.upstream, 3, SECRET)
        write(file, token, account_of("alice", "NEW_SECRET"))
        await _asked(service.upstream, 1, OTHERS)
        before = _count(service.upstream, SECRET)
        await _asked(service.upstream, 5, OTHERS)
        assert _count(service.upstream, SECRET) == before


@pytest.mark.parametrize("era", ERAS)
async def test_a_subscription_follows_the_principal_to_another_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, era: Era
) -> None:
    monkeypatch.setenv("ALICES_SECRET", SECRET)
    file, token = tmp_path / "p.toml", entry("a", "alice", *EVERYTHING)
    write(file, token)
    async with (
        service_with_tokens(file, ManualClock(1_700_000_000)) as service,
        subscribed(over_http(service.url, "a"), era, URI) as news,
    ):
        await _asked(service.upstream, 3)
        write(file, token, account_of("alice", "ALICES_SECRET", OWN))
        assert await news.next() == URI
        if era != "legacy":
            assert await news.rest() == []
        accounts = [request.target.split("/")[3] for request in service.upstream.requests]
        assert accounts.count(OWN) == 1
        assert accounts[-1] == OWN


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "change", ["revoked", "another's", "without its scope", "beyond the policy"]
)
async def test_a_subscription_ends_when_the_principal_loses_access(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, era: Era, change: str
) -> None:
    monkeypatch.setenv("ALICES_SECRET", OTHERS)
    (tmp_path / "elsewhere.toml").write_text(f'[accounts]\nallow = ["{OWN}"]\n', "utf-8")
    bob, own = entry("b", "bob", *EVERYTHING), account_of("alice", "ALICES_SECRET")
    after = {
        "revoked": (own,),
        "another's": (entry("a", "carol", *EVERYTHING), own),
        "without its scope": (entry("a", "alice", "calls:place"), own),
        "beyond the policy": (
            entry("a", "alice", *EVERYTHING),
            own + 'policy = "elsewhere.toml"\n',
        ),
    }
    file = write(tmp_path / "p.toml", bob, entry("a", "alice", *EVERYTHING), own)
    async with (
        service_with_tokens(file, ManualClock(1_700_000_000)) as service,
        subscribed(over_http(service.url, "b"), "auto", URI),
        subscribed(over_http(service.url, "a"), era, URI) as news,
    ):
        await _asked(service.upstream, 3, OTHERS)
        write(file, bob, *after[change])
        if era != "legacy":
            assert await news.rest() == []
        await _asked(service.upstream, 20)
        before = _count(service.upstream, OTHERS)
        await _asked(service.upstream, 20)
        assert _count(service.upstream, OTHERS) == before


async def test_an_oauth_grant_is_renewed_before_each_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALICES_SECRET", OTHERS)
    file, ticking = write(tmp_path / "p.toml", ""), ManualClock(0)
    async with (
        issuing() as issuer,
        stubbed_service(
            theirs_alone,
            clock=ManualClock(1_700_000_000),
            monotonic=ticking,
            **issuer.settings(calls_mcp_principals=file, calls_mcp_watch_interval=QUICK),
        ) as service,
        subscribed(over_http(service.url, issuer.token()), "auto", URI) as news,
    ):
        await _asked(service.upstream, 3)
        write(file, account_of("alice", "ALICES_SECRET"))
        await _asked(service.upstream, 3, OTHERS)
        ticking.advance(700)
        issuer.failure = Response(status_code=503)
        await _asked(service.upstream, 3, OTHERS)
        ticking.advance(20)
        issuer.failure, issuer.keys = None, [public(EC_KEY, "new", "ES256")]
        assert await news.rest() == []


async def test_revoking_one_subscribers_token_leaves_the_others(
    tmp_path: Path,
) -> None:
    both = entry("a", "alice", *EVERYTHING), entry("b", "bob", *EVERYTHING)
    file = write(tmp_path / "p.toml", *both)
    async with (
        service_with_tokens(file, ManualClock(1_700_000_000)) as service,
        subscribed(over_http(service.url, "b"), "auto", URI),
        subscribed(over_http(service.url, "a"), "auto", URI) as news,
    ):
        write(file, both[1])
        assert await news.rest() == []
        await _asked(service.upstream, 5)


def account_of(principal: str, variable: str, sid: str = ACCOUNT) -> str:
    """Return the lines of a principal's own account."""
    return f'[principals.{principal}]\naccount_sid = "{sid}"\nauth_token_env = "{variable}"\n'


async def _asked(upstream: Upstream, times: int, password: str = "") -> None:
    """Wait for this many more requests, with this password if one is given."""
    goal = _count(upstream, password) + times
    await until(lambda: _count(upstream, password) >= goal)


def _count(upstream: Upstream, password: str = "") -> int:
    return sum(not password or _password(request) == password for request in upstream.requests)


def _password(request: Request) -> str:
    encoded = request.headers["authorization"].removeprefix("Basic ")
    return base64.b64decode(encoded).decode().partition(":")[2]


async def _subscribe_by_post(service: LocalService, uri: str, headers: Mapping[str, str]) -> None:
    await service.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, headers)
    params = {"uri": uri}
    message = {"jsonrpc": "2.0", "id": 5, "method": "resources/subscribe", "params": params}
    assert (await service.post(message, headers)).status_code == 200


@asynccontextmanager
async def _updates(
    service: LocalService, headers: Mapping[str, str]
) -> AsyncGenerator[Callable[[], Awaitable[str]]]:
    """Open the stream of a session; yield a function that waits for the next updated URI."""
    async with service.http() as http, http.stream("GET", service.url, headers=headers) as stream:
        assert stream.status_code == 200
        lines = stream.aiter_lines()

        async def following() -> str:
            with anyio.fail_after(30):
                while not (line := await anext(lines)).startswith("data: {"):
                    pass
            return json.loads(line.removeprefix("data: "))["params"]["uri"]

        yield following
