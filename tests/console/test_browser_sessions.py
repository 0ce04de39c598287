"""Sessions of operators who sign in with a bearer token."""

import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from starlette.responses import Response

from tests.audit_records import records_in
from tests.console.harness import (
    Harness,
    anonymous,
    open_harness,
    sign_in_with_token,
    text_of,
)
from tests.http.issuer import AUDIENCE, Issuer, issuing
from tests.http.service import EVERYTHING, entry, write

pytestmark = pytest.mark.anyio

_APPROVAL = re.compile(r'href="(/approvals/[0-9a-f]+)"')
_ANN, _BOB = (entry(f"{name}s-token", name, "calls:approve") for name in ("ann", "bob"))
_AGENT = entry("agents-token", "agent", *EVERYTHING)


@asynccontextmanager
async def with_tokens(folder: Path, rules: str = 'place = "operator"') -> AsyncGenerator[Harness]:
    """A console that accepts the tokens of two operators and one agent."""
    file = write(folder / "principals.toml", _ANN, _BOB, _AGENT)
    settings = {"calls_mcp_auth": "tokens", "calls_mcp_principals": file}
    async with open_harness(folder, rules, **settings) as harness:
        yield harness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncGenerator[Harness]:
    async with with_tokens(tmp_path) as harness:
        yield harness


def deciders(harness: Harness) -> set[str]:
    """The operators who decided, according to the audit log."""
    return {each["decided_by"] for each in records_in(harness.database) if "decided_by" in each}


async def test_an_operator_decides_as_the_principal_of_their_token(harness: Harness) -> None:
    path = f"/approvals/{await harness.request_call('agent')}"
    async with anonymous(harness.console) as client:
        shown = (await client.get(path)).text
        assert 'type="password" autocomplete="off"' in shown
        assert "Sign-in link" not in shown
        response = await client.submit_token("anns-token ", path)
        assert f'href="{path}"' in response.text
        assert (await client.decide(path, decision="approve")).status_code == 303
    assert deciders(harness) == {"ann"}


async def test_a_token_does_not_allow_creating_links(harness: Harness) -> None:
    async with sign_in_with_token(harness.console, "anns-token") as ann:
        assert "/operators" not in await ann.read("/approvals")
        assert (await ann.get("/operators")).status_code == 403
        refused = await ann.decide("/operators", name="eve")
        assert refused.status_code == 403
        assert "?link=" not in refused.text


@pytest.mark.parametrize(
    ("token", "status"),
    [("agents-token", 403), ("anns-toke", 401), ("", 401), ("é", 401)],
)
async def test_any_other_token_is_refused_and_never_shown(
    harness: Harness, token: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with anonymous(harness.console) as client:
        refused = await client.submit_token(token, "/policy")
        assert refused.status_code == status
        assert "set-cookie" not in refused.headers
        assert 'name="next" value="/policy"' in refused.text
        assert (await client.get("/approvals")).status_code == 401
    assert "Console sign-in from 127.0.0.1" in caplog.text
    assert not token or token not in refused.text + caplog.text


async def test_a_session_ends_when_its_token_is_revoked(harness: Harness, tmp_path: Path) -> None:
    async with (
        sign_in_with_token(harness.console, "anns-token") as ann,
        ann.events("approvals") as events,
    ):
        await anext(events)
        write(tmp_path / "principals.toml", _BOB)
        await harness.request_call("agent")
        with anyio.fail_after(20):
            assert [each async for each in events] == []
        assert (await ann.get("/approvals")).status_code == 401
        assert (await ann.decide("/operators", name="eve")).status_code == 401
        write(tmp_path / "principals.toml", _ANN)
        assert (await ann.get("/approvals")).status_code == 401


async def test_a_session_expires_with_its_token(harness: Harness, tmp_path: Path) -> None:
    clock = harness.clock
    clock.advance(time.time() - clock())
    short = entry("short", "cyd", "calls:approve", lasts=timedelta(hours=1))
    write(tmp_path / "principals.toml", short)
    async with sign_in_with_token(harness.console, "short") as client:
        clock.advance(3500)
        assert "cyd" in await client.read("/approvals")
        clock.advance(101)
        assert (await client.get("/approvals")).status_code == 401


async def test_a_program_can_read_with_a_token_in_the_header(harness: Harness) -> None:
    await harness.request_call("agent")
    async with anonymous(harness.console) as script:
        pending = await script.get_with_token("anns-token")
        assert "1 pending approval request." in text_of(pending.text)
        export = await script.get_with_token("anns-token", "/audit/export.jsonl")
        assert '"decision":"asked"' in export.text
        assert "set-cookie" not in export.headers
        assert (await script.get("/approvals")).status_code == 401


async def test_a_program_cannot_decide(harness: Harness) -> None:
    path = f"/approvals/{await harness.request_call('agent')}"
    async with sign_in_with_token(harness.console, "bobs-token") as bob:
        headers = {"Authorization": "Bearer anns-token"}
        refused = await bob.post(path, headers, code=bob.code, decision="approve")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        assert "Call now" in await bob.read(path)


@pytest.mark.parametrize(
    ("token", "status", "error"),
    [("unknown", 401, "invalid_token"), ("agents-token", 403, "insufficient_scope")],
)
async def test_an_invalid_token_in_the_header_is_refused_even_with_a_valid_cookie(
    harness: Harness, token: str, status: int, error: str
) -> None:
    async with sign_in_with_token(harness.console, "bobs-token") as bob:
        refused = await bob.get_with_token(token)
    assert refused.status_code == status
    assert refused.headers["www-authenticate"] == f'Bearer error="{error}"'


async def test_an_address_with_many_invalid_tokens_is_blocked_for_a_minute(
    harness: Harness,
) -> None:
    async with (
        sign_in_with_token(harness.console, "bobs-token") as bob,
        anonymous(harness.console) as client,
    ):
        for number in range(21):
            assert (await client.submit_token(f"guess-{number}")).status_code == 401
        late = await client.submit_token("anns-token")
        assert late.status_code == 429
        assert 0 < int(late.headers["retry-after"]) <= 60
        assert (await client.get_with_token("anns-token")).status_code == 429
        assert "bob" in await bob.read("/approvals")
        harness.clock.advance(61)
        assert (await client.submit_token("anns-token")).status_code == 200


@pytest.mark.parametrize("name", ["ann", "Ann", "\uff41nn", "a nn", "an\u00adn"])
async def test_operators_cannot_approve_their_own_requests(harness: Harness, name: str) -> None:
    own = f"/approvals/{await harness.request_call(name)}"
    async with (
        sign_in_with_token(harness.console, "anns-token") as ann,
        sign_in_with_token(harness.console, "bobs-token") as bob,
    ):
        shown = await ann.read(own)
        assert "You made this request" in shown
        assert 'value="approve"' not in shown + await ann.read("/approvals")
        assert (await ann.decide(own, decision="approve")).status_code == 403
        assert (await bob.decide(own, decision="approve")).status_code == 303
    assert deciders(harness) == {"bob"}


async def test_operators_can_deny_their_own_requests(harness: Harness) -> None:
    own = f"/approvals/{await harness.request_call('ann')}"
    async with sign_in_with_token(harness.console, "anns-token") as ann:
        assert (await ann.decide(own, decision="deny")).status_code == 303
        assert "Denied by ann" in text_of(await ann.read(own))


async def test_requesters_can_approve_where_any_human_may(tmp_path: Path) -> None:
    async with with_tokens(tmp_path, 'place = "require_human"') as harness:
        own = f"/approvals/{await harness.request_call('ann')}"
        async with sign_in_with_token(harness.console, "anns-token") as ann:
            assert (await ann.decide(own, decision="approve")).status_code == 303


async def test_another_operator_must_approve_a_hang_up(tmp_path: Path) -> None:
    async with with_tokens(tmp_path, 'place = "never"\nhang_up = "operator"') as harness:
        path = f"/calls/{await harness.place_call()}/hang-up"
        async with (
            sign_in_with_token(harness.console, "anns-token") as ann,
            sign_in_with_token(harness.console, "bobs-token") as bob,
        ):
            pending = await ann.decide(path)
            assert pending.status_code == 409
            found = _APPROVAL.search(pending.text)
            assert found
            approval = found[1]
            with anyio.fail_after(harness.runtime.settings.guard.operator_wait / 2):
                assert approval in (await ann.decide(path)).text
            assert len(harness.changes) == 1
            refused = await ann.decide(approval, decision="approve")
            assert refused.status_code == 403
            assert (
                await bob.decide(approval, decision="approve", confirmed="1")
            ).status_code == 303
            assert (await ann.decide(path)).status_code == 303
        assert len(harness.changes) == 2


# Access tokens of an OAuth issuer


def oauth(issuer: Issuer) -> dict[str, str]:
    return {
        "calls_mcp_auth": "oauth",
        "calls_mcp_oauth_issuer": issuer.url,
        "calls_mcp_resource_url": AUDIENCE,
    }


async def test_an_oauth_token_must_have_the_operator_scope_and_no_tool_scope(
    tmp_path: Path,
) -> None:
    async with (
        issuing() as issuer,
        open_harness(tmp_path, **oauth(issuer)) as harness,
        anonymous(harness.console) as client,
    ):
        refused = await client.submit_token(
            issuer.token(claims={"scope": "calls:read calls:approve"})
        )
        assert refused.status_code == 403
        assert "also has scopes for tools" in text_of(refused.text)
        token = issuer.token(claims={"scope": "openid calls:approve"})
        assert (await client.submit_token(token)).status_code == 200
        assert "alice" in await client.read("/approvals")


async def test_an_issuer_outage_is_reported_with_a_retry_time(tmp_path: Path) -> None:
    async with (
        issuing() as issuer,
        open_harness(tmp_path, **oauth(issuer)) as harness,
        anonymous(harness.console) as client,
    ):
        issuer.failure = Response("away", 500)
        later = await client.submit_token(issuer.token(claims={"scope": "calls:approve"}))
    assert later.status_code == 503
    assert later.headers["retry-after"] == "10"
