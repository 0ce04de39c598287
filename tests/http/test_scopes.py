"""Tokens, scopes and principals over HTTP."""

import hmac
import json
import logging
from base64 import b64decode
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from calls_mcp.http.authentication import BearerAuthentication
from tests.confirmation import YES, asked, token_for
from tests.harness import ERAS, Era, User, placing
from tests.http.issuer import issuing
from tests.http.service import (
    EVERYTHING,
    LEGACY,
    Client2026,
    LocalService,
    by_tokens,
    challenge,
    entry,
    message,
    open_service,
    principals,
    result,
    stubbed_service,
    write,
)
from tests.upstream import SID, answer, call

pytestmark = pytest.mark.anyio

NEEDS = {
    "create_call": "calls:place",
    "delete_call": "calls:delete",
    "fetch_call": "calls:read",
    "list_calls": "calls:read",
    "update_call": "calls:change",
}
CHANGES = [
    ("create_call", placing()),
    ("update_call", {"sid": SID, "status": "completed"}),
    ("delete_call", {"sid": SID}),
]
FORMS: dict[str, object] = {"elicitation": {}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(
        tmp_path / "principals.toml",
        entry("alices-token", "alice", *EVERYTHING),
        entry("alices-reading-token", "alice", "calls:read"),
        entry("bobs-token", "bob", *EVERYTHING),
        entry("an-old-token", "alice", *EVERYTHING, lasts=timedelta(seconds=-1)),
        *(entry(f"only {scope}", "carol", scope) for scope in EVERYTHING),
    )


def tokens(file: Path, **settings: object) -> AbstractAsyncContextManager[LocalService]:
    """Start a service that accepts the tokens in `file`."""
    return open_service(**by_tokens(file, **settings))


@pytest.fixture
async def service(file: Path) -> AsyncGenerator[LocalService]:
    async with tokens(file) as service:
        yield service


@pytest.mark.requirement("03")
async def test_a_confirmation_token_is_bound_to_its_principal(service: LocalService) -> None:
    tool = ("create_call", placing())
    async with (
        service.of("alices-token").connect() as alice,
        service.of("bobs-token").connect() as bob,
    ):
        token = await token_for(alice, tool)
        stolen = await bob.call("create_call", **placing(), confirmation_token=token)
        assert stolen["error"]["kind"] == "invalid_confirmation"
        assert service.harness.changes == []
        own = await alice.call("create_call", **placing(), confirmation_token=token)
        assert own["outcome"] == "done"


@pytest.mark.requirement("03")
async def test_a_request_state_is_bound_to_its_principal(
    service: LocalService,
) -> None:
    async with (
        service.of("alices-token").connect(user=User()) as alice,
        service.of("bobs-token").connect(user=User()) as bob,
    ):
        question = await asked(alice, ("create_call", placing()))
        stolen = await asked(bob, ("create_call", placing()))
        with pytest.raises(MCPError, match="Invalid or expired requestState"):
            await stolen.answer(YES, state=question.state)
        assert service.harness.changes == []
        assert (await question.answer(YES))["outcome"] == "done"


@pytest.mark.requirement("05", "27")
async def test_a_session_is_bound_to_its_principal(service: LocalService) -> None:
    """Another principal can't answer its question, send a request, or delete it."""
    body = message("tools/call", name="create_call", arguments=placing())
    yes = {"action": "accept", "content": {"approve": True}}
    alice, bob = service.of("alices-token"), service.of("bobs-token")
    session = {"Mcp-Session-Id": await alice.session(**FORMS), "MCP-Protocol-Version": LEGACY}
    async with alice.http() as http, bob.http() as others:
        async with http.stream("POST", service.url, content=body, headers=session) as stream:
            async for line in stream.aiter_lines():
                if "elicitation/create" in line:
                    break
            for number in range(10):
                reply = {"jsonrpc": "2.0", "id": number, "result": yes}
                assert (await bob.post(reply, session)).status_code == 404
                assert (await service.post(reply, session)).status_code == 401
            for method in ("GET", "DELETE"):
                ended = await others.request(method, service.url, headers=session)
                assert ended.status_code == 404
        assert (await http.delete(service.url, headers=session)).status_code == 200
    assert service.harness.changes == []


@pytest.mark.requirement("20")
async def test_a_clients_credentials_are_never_sent_upstream(tmp_path: Path) -> None:
    canaries = ["canary-bearer-1a2b3c", "canary-header-4d5e6f", "canary-argument-7a8b9c"]
    file = write(tmp_path / "principals.toml", entry(canaries[0], "alice", *EVERYTHING))
    headers = {
        "X-Twilio-Account-Sid": f"AC{'9' * 32}",
        "X-Twilio-Auth-Token": canaries[1],
        "Cookie": f"token={canaries[1]}",
        "Proxy-Authorization": f"Basic {canaries[1]}",
    }
    step = answer(200, call(status="in-progress"))
    async with (
        stubbed_service(step, **by_tokens(file, calls_mcp_confirm="none")) as service,
        service.of(canaries[0]).connect(headers=headers) as agent,
    ):
        for name, arguments in (("fetch_call", {"sid": SID}), *CHANGES):
            canary = {"auth_token": canaries[2], "api_secret": canaries[2]}
            refused = await agent.call(name, **arguments, **canary)
            assert refused["error"]["kind"] == "invalid_arguments"
            await agent.call(name, **arguments)
        assert len(service.upstream.changes) == len(CHANGES)
        for request in service.upstream.requests:
            scheme, _, pair = request.headers["authorization"].partition(" ")
            assert scheme == "Basic"
            sent = f"{request} {b64decode(pair).decode()}"
            assert not [canary for canary in canaries if canary in sent]
            assert "9" * 32 not in sent
            assert not [k for k in request.headers if k.startswith(("x-twilio", "cookie", "proxy"))]


@pytest.mark.requirement("20")
async def test_no_token_appears_in_a_log_or_response(
    caplog: pytest.LogCaptureFixture, service: LocalService
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = ""
    async with issuing() as issuer:
        good, bad = issuer.token(), issuer.token(claims={"exp": 1})
        async with open_service(**issuer.settings()) as by_oauth:
            for token in (good, bad):
                for method in ("tools/list", "tools/call"):
                    shown += (await by_oauth.of(token).ask(method, name="fetch_call")).text
    for token in ("alices-token", "an-old-token", "alices-reading-token", "made-up-token"):
        shown += (await service.of(token).ask("tools/call", name="create_call")).text
    shown += "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith("http"))
    secrets = (good, bad, good.split(".")[2], "alices-token", "an-old-token", "made-up-token")
    assert not [secret for secret in secrets if secret in shown]


@pytest.mark.requirement("21")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("scope", EVERYTHING)
async def test_a_token_lists_only_the_tools_of_its_scopes(
    era: Era, scope: str, service: LocalService
) -> None:
    allowed = [name for name, needed in NEEDS.items() if needed == scope]
    async with service.of(f"only {scope}").connect(era) as agent:
        assert [tool.name for tool in (await agent.client.list_tools()).tools] == allowed


@pytest.mark.requirement("21")
@pytest.mark.parametrize("era", ERAS)
async def test_a_prompt_that_needs_a_missing_scope_is_not_listed(
    era: Era, service: LocalService
) -> None:
    async with service.of("alices-reading-token").connect(era) as agent:
        prompts = [prompt.name for prompt in (await agent.client.list_prompts()).prompts]
        assert prompts == ["daily_call_report", "follow_call", "investigate_failed_calls"]
        with pytest.raises(MCPError, match=r"Available: daily_call_report, follow_call, inv"):
            await agent.client.get_prompt("end_call", {"sid": SID})


@pytest.mark.requirement("21")
@pytest.mark.parametrize("scope", EVERYTHING)
async def test_a_403_names_the_missing_scope(scope: str, service: LocalService) -> None:
    session = await service.of(f"only {scope}").session()
    for name, needed in NEEDS.items():
        arguments: dict[str, object] = {"sid": SID}
        body = message("tools/call", name=name, arguments=arguments)
        for response in (
            await service.of(f"only {scope}").ask("tools/call", name=name, arguments=arguments),
            await service.of(f"only {scope}").legacy(session, body),
            await service.of(f"only {scope}").post(body),
        ):
            if needed == scope:
                assert response.status_code != 403
                continue
            assert response.status_code == 403
            assert challenge(response) == {
                "error": "insufficient_scope",
                "scope": needed,
                "error_description": f"This needs a token with the scope {needed}",
            }
    assert service.harness.changes == []


@pytest.mark.requirement("21")
async def test_a_disguised_tool_call_does_not_bypass_the_scope_check(file: Path) -> None:
    call = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "%s"%s}}'
    place = json.dumps(placing()).encode()
    create = call % (b"create_call", b', "arguments": ' + place)
    hidden = [
        b"[" + create + b"]",
        b"[" + call % (b"list_calls", b"") + b"," + create + b"]",
        create.replace(b'"method"', b'"method": "ping", "method"'),
        create.replace(b'"name"', b'"name": "list_calls", "name"'),
        create.replace(b'"create_call"', b'"create_call", "name": "list_calls"'),
        create.replace(b"create_call", b"\\u0063reate_call"),
        create.replace(b'"tools/call"', b'"tools\\/call"'),
        b"\xef\xbb\xbf" + create,
        create.decode().encode("utf-16"),
        create + b" " * 2**22,
        b"\n\t" + create + b"\n",
    ]
    async with tokens(file, calls_mcp_confirm="none") as service:
        session = await service.of("alices-reading-token").session()
        for body in hidden:
            for response in (
                await service.of("alices-reading-token").legacy(session, body),
                await service.of("alices-reading-token").post(body),
            ):
                assert b'"outcome":"done","call"' not in response.content
        headers = Client2026().headers("tools/call", "list_calls")
        modern = await service.of("alices-reading-token").post(create, headers)
        assert modern.status_code == 403
        assert service.harness.changes == []


@pytest.mark.requirement("21")
async def test_scopes_come_from_the_request_and_not_from_its_session(
    file: Path,
) -> None:
    async with tokens(file, calls_mcp_confirm="none") as service:
        session = await service.of("alices-token").session()
        listed = await service.of("alices-reading-token").legacy(session, message("tools/list"))
        names = [tool["name"] for tool in result(listed)["tools"]]
        assert names == ["fetch_call", "list_calls"]
        body = message("tools/call", name="create_call", arguments=placing())
        refused = await service.of("alices-reading-token").legacy(session, body)
        assert refused.status_code == 403
        assert service.harness.changes == []


@pytest.mark.requirement("21")
async def test_handlers_check_scopes_even_without_the_http_check(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BearerAuthentication, "require_scope", _ignored)
    async with tokens(file, calls_mcp_confirm="none") as service:
        for name, arguments in CHANGES:
            params = {"name": name, "arguments": arguments}
            response = await service.of("alices-reading-token").ask("tools/call", **params)
            assert f"insufficient_scope: {name} needs {NEEDS[name]}" in response.text
        assert service.harness.emulator.requests == ()


@pytest.mark.requirement("21")
async def test_lists_that_depend_on_the_token_are_cached_privately(service: LocalService) -> None:
    listed = result(await service.of("alices-token").ask("tools/list"))
    assert (listed["cacheScope"], listed["ttlMs"]) == ("private", 0)
    async with open_service() as open_to_all:
        listed = result(await open_to_all.of("whatever").ask("tools/list"))
        assert listed["cacheScope"] == "public"


@pytest.mark.requirement("21")
async def test_handlers_reject_unauthenticated_requests_even_without_the_http_check(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BearerAuthentication, "authenticate", _nobody)
    async with tokens(file) as service:
        for params in ({}, {"name": "list_calls"}):
            method = "tools/call" if params else "tools/list"
            asked = await service.of("alices-token").ask(method, **params)
            assert "The request is not authenticated" in asked.text
        assert service.harness.emulator.requests == ()


@pytest.mark.requirement("19")
@pytest.mark.parametrize("shown", ["", "Authorization: Bearer nobodys-token\r\n"])
@pytest.mark.parametrize("way", ["pipelined", "after a body that came late"])
async def test_each_request_on_a_connection_is_authenticated_by_its_own_token(
    way: str, shown: str, tmp_path: Path
) -> None:
    file = principals(tmp_path / "principals.toml", "ann")
    async with tokens(file) as service:
        raw = Client2026()
        body = json.dumps(raw.body("tools/list") | {"padding": "x" * 60_000}).encode()
        named = "".join(f"{name}: {value}\r\n" for name, value in raw.headers("tools/list").items())

        def head(authorization: str) -> bytes:
            told = f"Host: {service.url.split('/')[2]}\r\nContent-Length: {len(body)}\r\n{named}"
            both = "application/json, text/event-stream"
            accepted = f"Content-Type: application/json\r\nAccept: {both}\r\n"
            return f"POST /mcp HTTP/1.1\r\n{told}{accepted}{authorization}\r\n".encode()

        good = head("Authorization: Bearer ann\r\n")
        connection = await service.connection()
        async with connection:
            if way == "pipelined":
                await connection.send(good + body + head(shown) + body)
            else:
                await connection.send(good)
                assert (
                    await service.get("/healthz")
                ).status_code == 200  # the headers have arrived
                await connection.send(body)
            told = bytearray()
            while b'"tools"' not in told:
                told += await connection.receive()
            if way != "pipelined":
                await connection.send(head(shown) + body)
            while told.count(b"HTTP/1.1 ") < 2:
                told += await connection.receive()
        assert b"HTTP/1.1 401 " in told
        assert told.count(b"HTTP/1.1 200 ") == 1


@pytest.mark.requirement("23")
async def test_a_token_is_compared_with_all_tokens_in_constant_time(
    monkeypatch: pytest.MonkeyPatch, service: LocalService
) -> None:
    compared: list[tuple[Any, Any]] = []
    compare = hmac.compare_digest

    def counting(one: str, other: str) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    counts: list[int] = []
    for token in ("alices-token", "only calls:delete", "made-up"):
        await service.of(token).post(b"{}")
        counts.append(len(compared))
        compared.clear()
    assert counts == [8, 8, 8]


async def _nobody(*_: object) -> None:
    return None


def _ignored(*_: object) -> None:
    return
