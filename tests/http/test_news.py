"""Resources, their changes and completion over HTTP: whose they are, and how they end."""

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
from tests.http.issuer import EC_KEY, issuing, public
from tests.http.site import (
    EVERYTHING,
    Client2026,
    Here,
    OnStandIn,
    by_tokens,
    challenge,
    entry,
    in_session,
    open_site,
    principals,
    stand_in_site,
    write,
)
from tests.rig import ACCOUNT, ERAS, Era
from tests.subscriptions import left_alone, looked, looks, over_http, subscribe, subscribed
from tests.upstream import SECRET, SID, Exchange, Request, Upstream, answer, call

pytestmark = pytest.mark.anyio

QUICK = 0.01  # seconds between looks
TALK = 10  # seconds, after which the callee has long answered
OTHERS = SECRET[::-1]
OWN = "AC" + "7" * 32
URI = f"calls://call/{SID}"


@pytest.fixture
async def site() -> AsyncGenerator[Here]:
    """A service that looks at calls all the time."""
    async with open_site(calls_mcp_watch_interval=QUICK) as site:
        yield site


async def test_a_call_is_looked_at_once_for_all_who_listen(tmp_path: Path) -> None:
    tokens = ("alice", "bob", "carol")
    async with open_site(
        token="alice",
        **by_tokens(principals(tmp_path / "p.toml", *tokens), calls_mcp_watch_interval=QUICK),
    ) as site:
        crowded, lonely = await site.place(), await site.place()
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            everybody = [
                await enter(subscribed(over_http(site.url, token), era, f"calls://call/{crowded}"))
                for token in tokens
                for era in ERAS
            ]
            await enter(subscribed(over_http(site.url, "bob"), "auto", f"calls://call/{lonely}"))
            before = looks(site.rig, crowded), looks(site.rig, lonely)
            await looked(site.rig, lonely, 20)
            assert looks(site.rig, crowded) - before[0] < 3 * (looks(site.rig, lonely) - before[1])
            site.rig.clock.advance(2 * 3600)
            for news in everybody:
                assert await news.next() == f"calls://call/{crowded}"


@pytest.mark.parametrize("era", ERAS)
async def test_all_together_watch_no_more_than_there_may_be(tmp_path: Path, era: Era) -> None:
    tokens = [f"token-{n}" for n in range(5)]
    async with open_site(
        token=tokens[0], **by_tokens(principals(tmp_path / "p.toml", *tokens), calls_mcp_watches=4)
    ) as site:
        uri = f"calls://call/{await site.place()}"
        async with AsyncExitStack() as stack:
            for token in tokens[:4]:
                await stack.enter_async_context(subscribed(over_http(site.url, token), era, uri))
            async with over_http(site.url, tokens[4])("auto", None) as last:
                with pytest.raises(MCPError, match="As many calls are being watched"):
                    await last.listen(resource_subscriptions=[uri]).__aenter__()


@pytest.mark.parametrize("era", ERAS)
async def test_nothing_is_asked_after_for_a_client_that_has_gone(era: Era, site: Here) -> None:
    sid = await site.place()
    async with subscribed(over_http(site.url), era, f"calls://call/{sid}"):
        await looked(site.rig, sid, 2)
    assert await left_alone(site.rig, sid)


async def test_a_server_that_ends_lets_its_listeners_go_in_order_and_takes_no_more(
    site: Here,
) -> None:
    uri = f"calls://call/{await site.place()}"
    async with subscribed(over_http(site.url), "auto", uri) as news:
        await site.site.stop(30)
        assert await news.rest() == []
    raw, filters = Client2026(), {"resourceSubscriptions": [uri]}
    refused = await site.post(
        raw.body("subscriptions/listen", notifications=filters),
        raw.headers("subscriptions/listen"),
    )
    assert refused.status_code == 503


async def test_a_listener_is_no_request_that_an_end_waits_for(site: Here) -> None:
    uri = f"calls://call/{await site.place()}"
    async with subscribed(over_http(site.url), "auto", uri) as news:
        with anyio.fail_after(30):
            await site.site.shutdown.idle()
        site.rig.clock.advance(2 * 3600)
        assert await news.next() == uri


async def test_without_sessions_an_older_client_is_promised_no_news_and_told_so() -> None:
    async with open_site(calls_mcp_http_stateless=True, calls_mcp_watch_interval=QUICK) as site:
        uri = f"calls://call/{await site.place()}"
        connect = over_http(site.url)
        async with connect("legacy", None) as client:
            resources = client.server_capabilities.resources
            assert resources is not None
            assert resources.subscribe is False
            with pytest.raises(MCPError, match="keeps no sessions") as refusal:
                await subscribe(client, uri)
            assert refusal.value.code == -32601
        async with subscribed(connect, "auto", uri) as news:
            site.rig.clock.advance(2 * 3600)
            assert await news.next() == uri


async def test_a_session_that_is_ended_watches_nothing(site: Here) -> None:
    sid, headers = await site.place(), in_session(await site.open_session())
    await _subscribe_by_post(site, f"calls://call/{sid}", headers)
    async with _told(site, headers), site.http() as http:
        await looked(site.rig, sid, 2)
        assert (await http.delete(site.url, headers=headers)).status_code == 200
    assert await left_alone(site.rig, sid)


async def test_nothing_is_asked_after_for_a_session_without_a_stream(site: Here) -> None:
    sid, headers = await site.place(), in_session(await site.open_session())
    await _subscribe_by_post(site, f"calls://call/{sid}", headers)
    assert await left_alone(site.rig, sid)
    assert looks(site.rig, sid) == 1
    async with _told(site, headers):
        await looked(site.rig, sid, 2)
    assert await left_alone(site.rig, sid)


async def test_a_call_is_looked_at_as_soon_as_a_session_has_a_stream_again() -> None:
    async with open_site(calls_mcp_watch_interval=3600) as site:
        uri = f"calls://call/{await site.place()}"
        headers = in_session(await site.open_session())
        await _subscribe_by_post(site, uri, headers)
        for seconds in (TALK, 2 * 3600):
            site.rig.clock.advance(seconds)
            async with _told(site, headers) as told:
                assert await told() == uri


async def test_what_others_heard_meanwhile_waits_for_the_stream_of_a_session(site: Here) -> None:
    uri = f"calls://call/{await site.place()}"
    headers = in_session(await site.open_session())
    await _subscribe_by_post(site, uri, headers)
    async with subscribed(over_http(site.url), "auto", uri) as news:
        site.rig.clock.advance(2 * 3600)
        assert await news.rest() == [uri]
    async with _told(site, headers) as told:
        assert await told() == uri


@pytest.mark.parametrize("era", ERAS)
async def test_who_asked_too_often_delays_nobody_else(tmp_path: Path, era: Era) -> None:
    (tmp_path / "slow.toml").write_text("[caps]\nreads_per_minute = 100\n", "utf-8")
    everybody = [entry(name, name, *EVERYTHING) for name in ("mallory", "bob")]
    file = write(tmp_path / "p.toml", *everybody, '[principals.mallory]\npolicy = "slow.toml"\n')
    async with (
        open_site(token="bob", **by_tokens(file, calls_mcp_watch_interval=0.05)) as site,
        AsyncExitStack() as stack,
    ):
        sid = await site.place()
        uri = f"calls://call/{sid}"
        mallory = await stack.enter_async_context(site.of("mallory").connect())
        for _ in range(20):
            await stack.enter_async_context(mallory.client.listen(resource_subscriptions=[uri]))
        news = await stack.enter_async_context(subscribed(over_http(site.url, "bob"), era, uri))
        while "error" not in await mallory.call("fetch_call", sid=sid):
            pass
        await looked(site.rig, sid, 5)
        site.rig.clock.advance(TALK)
        assert await news.next() == uri


async def theirs_alone(exchange: Exchange) -> None:
    """One account has a call that never ends, and others have none."""
    is_theirs = exchange.request.target.split("/")[3] == ACCOUNT
    step = answer(200, call(status="in-progress")) if is_theirs else answer(404)
    await step(exchange)


def tokens_site(
    file: Path, clock: ManualClock, **settings: object
) -> AbstractAsyncContextManager[OnStandIn]:
    """A service on such a stand-in."""
    given = by_tokens(file, calls_mcp_watch_interval=QUICK, **settings)
    return stand_in_site(theirs_alone, clock=clock, **given)


async def test_scopes_decide_what_is_listed_read_watched_and_completed(tmp_path: Path) -> None:
    file = write(tmp_path / "p.toml", entry("placer", "alice", "calls:place"))
    async with open_site(token="placer", **by_tokens(file)) as site:
        async with site.connect() as agent:
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
        forbidden = await site.post(
            raw.body("resources/read", uri=URI), raw.headers("resources/read", URI)
        )
        assert forbidden.status_code == 403
        assert challenge(forbidden)["scope"] == "calls:read"
        assert site.rig.reads == []


@pytest.mark.parametrize("era", ERAS)
async def test_principals_read_and_watch_what_is_in_their_own_account(
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
    async with tokens_site(file, ManualClock(1_700_000_000)) as site:
        async with (
            subscribed(over_http(site.url, "b"), era, URI),
            over_http(site.url, "b")(era, None) as bob,
            over_http(site.url, "a")(era, None) as alice,
        ):
            assert "in-progress" in str(await bob.read_resource(URI))
            listening = alice.listen(resource_subscriptions=[URI]).__aenter__
            with pytest.raises(MCPError, match="not_found"):
                await (subscribe(alice, URI) if era == "legacy" else listening())
            with pytest.raises(MCPError, match="not_found"):
                await alice.read_resource(URI)
            assert "Placing a call is refused" in str(await alice.read_resource("calls://policy"))
            assert "Placing a call is refused" not in str(await bob.read_resource("calls://policy"))
        accounts = [request.target.split("/")[3] for request in site.upstream.requests]
        assert accounts.count(OWN) == 2


@pytest.mark.parametrize("era", ERAS)
async def test_nobody_is_told_of_calls_once_their_token_has_expired(
    tmp_path: Path, era: Era
) -> None:
    file = write(tmp_path / "p.toml", entry("a", "alice", *EVERYTHING))
    clock = ManualClock(1_700_000_000)
    async with (
        tokens_site(file, clock) as site,
        subscribed(over_http(site.url, "a"), era, URI) as news,
    ):
        await _asked(site.upstream, 3)
        clock.advance((datetime.now(UTC) + timedelta(days=2)).timestamp() - clock())
        if era != "legacy":
            assert await news.rest() == []
        before = len(site.upstream.requests)
        async with over_http(site.url, "a")("auto", None) as client:
            for _ in range(20):
                await client.read_resource("calls://policy")
        assert len(site.upstream.requests) <= before + 1


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_is_looked_at_with_the_credentials_that_a_principal_has_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, era: Era
) -> None:
    monkeypatch.setenv("OLD_SECRET", SECRET)
    monkeypatch.setenv("NEW_SECRET", OTHERS)
    file = tmp_path / "p.toml"
    token = entry("a", "alice", *EVERYTHING)
    write(file, token, account_of("alice", "OLD_SECRET"))
    async with (
        tokens_site(file, ManualClock(1_700_000_000)) as site,
        subscribed(over_http(site.url, "a"), era, URI),
    ):
        await _asked(site.upstream, 3, SECRET)
        write(file, token, account_of("alice", "NEW_SECRET"))
        await _asked(site.upstream, 1, OTHERS)
        before = _count(site.upstream, SECRET)
        await _asked(site.upstream, 5, OTHERS)
        assert _count(site.upstream, SECRET) == before


@pytest.mark.parametrize("era", ERAS)
async def test_a_listener_whose_account_is_another_hears_of_the_call_in_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, era: Era
) -> None:
    monkeypatch.setenv("ALICES_SECRET", SECRET)
    file, token = tmp_path / "p.toml", entry("a", "alice", *EVERYTHING)
    write(file, token)
    async with (
        tokens_site(file, ManualClock(1_700_000_000)) as site,
        subscribed(over_http(site.url, "a"), era, URI) as news,
    ):
        await _asked(site.upstream, 3)
        write(file, token, account_of("alice", "ALICES_SECRET", OWN))
        assert await news.next() == URI
        if era != "legacy":
            assert await news.rest() == []
        accounts = [request.target.split("/")[3] for request in site.upstream.requests]
        assert accounts.count(OWN) == 1
        assert accounts[-1] == OWN


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "change", ["revoked", "another's", "without its scope", "beyond the policy"]
)
async def test_nobody_listens_on_who_may_not_read_the_call_any_more(
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
        tokens_site(file, ManualClock(1_700_000_000)) as site,
        subscribed(over_http(site.url, "b"), "auto", URI),
        subscribed(over_http(site.url, "a"), era, URI) as news,
    ):
        await _asked(site.upstream, 3, OTHERS)
        write(file, bob, *after[change])
        if era != "legacy":
            assert await news.rest() == []
        await _asked(site.upstream, 20)
        before = _count(site.upstream, OTHERS)
        await _asked(site.upstream, 20)
        assert _count(site.upstream, OTHERS) == before


async def test_what_an_issuers_token_grants_is_looked_up_before_each_look_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALICES_SECRET", OTHERS)
    file, ticking = write(tmp_path / "p.toml", ""), ManualClock(0)
    async with (
        issuing() as issuer,
        stand_in_site(
            theirs_alone,
            clock=ManualClock(1_700_000_000),
            monotonic=ticking,
            **issuer.settings(calls_mcp_principals=file, calls_mcp_watch_interval=QUICK),
        ) as site,
        subscribed(over_http(site.url, issuer.token()), "auto", URI) as news,
    ):
        await _asked(site.upstream, 3)
        write(file, account_of("alice", "ALICES_SECRET"))
        await _asked(site.upstream, 3, OTHERS)
        ticking.advance(700)
        issuer.failure = Response(status_code=503)
        await _asked(site.upstream, 3, OTHERS)
        ticking.advance(20)
        issuer.failure, issuer.keys = None, [public(EC_KEY, "new", "ES256")]
        assert await news.rest() == []


async def test_one_of_many_who_listen_is_told_no_more_once_their_token_is_revoked(
    tmp_path: Path,
) -> None:
    both = entry("a", "alice", *EVERYTHING), entry("b", "bob", *EVERYTHING)
    file = write(tmp_path / "p.toml", *both)
    async with (
        tokens_site(file, ManualClock(1_700_000_000)) as site,
        subscribed(over_http(site.url, "b"), "auto", URI),
        subscribed(over_http(site.url, "a"), "auto", URI) as news,
    ):
        write(file, both[1])
        assert await news.rest() == []
        await _asked(site.upstream, 5)


def account_of(principal: str, variable: str, sid: str = ACCOUNT) -> str:
    """The lines about an account of somebody's own."""
    return f'[principals.{principal}]\naccount_sid = "{sid}"\nauth_token_env = "{variable}"\n'


async def _asked(upstream: Upstream, times: int, password: str = "") -> None:
    """Wait for so many more requests, with these credentials if any are told."""
    goal = _count(upstream, password) + times
    with anyio.fail_after(30):
        while _count(upstream, password) < goal:
            await anyio.lowlevel.checkpoint()


def _count(upstream: Upstream, password: str = "") -> int:
    return sum(not password or _password(request) == password for request in upstream.requests)


def _password(request: Request) -> str:
    encoded = request.headers["authorization"].removeprefix("Basic ")
    return base64.b64decode(encoded).decode().partition(":")[2]


async def _subscribe_by_post(site: Here, uri: str, headers: Mapping[str, str]) -> None:
    await site.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, headers)
    params = {"uri": uri}
    message = {"jsonrpc": "2.0", "id": 5, "method": "resources/subscribe", "params": params}
    assert (await site.post(message, headers)).status_code == 200


@asynccontextmanager
async def _told(
    site: Here, headers: Mapping[str, str]
) -> AsyncGenerator[Callable[[], Awaitable[str]]]:
    """The stream of a session: what waits for the next URI that it is told of."""
    async with site.http() as http, http.stream("GET", site.url, headers=headers) as stream:
        assert stream.status_code == 200
        lines = stream.aiter_lines()

        async def following() -> str:
            with anyio.fail_after(30):
                while not (line := await anext(lines)).startswith("data: {"):
                    pass
            return json.loads(line.removeprefix("data: "))["params"]["uri"]

        yield following
