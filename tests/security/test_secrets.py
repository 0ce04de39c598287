"""Items 16 to 18: no credential is shown anywhere, by anything, in any encoding."""

import base64
import json
import logging
import re
import sqlite3
import traceback
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import anyio
import pytest
from mcp import Client

from calls_mcp.errors import CallsError, ConfigurationError
from calls_mcp.runtime import Runtime
from calls_mcp.server import build_server
from calls_mcp.settings import Settings, load_settings
from calls_mcp.twilio import TwilioClient
from calls_mcp.wire import Request
from tests.rig import ACCOUNT, CALLER, PERMISSIVE, Agent, open_rig, placing
from tests.security.canary import (
    API_SECRET,
    AUTH_TOKEN,
    CALL_TOKEN,
    KEY,
    REDIS_PASSWORD,
    SECRETS,
    SIP_PASSWORD,
    betrayed,
    forms,
)
from tests.security.conversation import Tool
from tests.security.process import Server, environment, started
from tests.upstream import (
    SID,
    Exchange,
    Step,
    Upstream,
    access,
    answer,
    call,
    drop,
    page,
    redirect,
    refusing,
    scripted,
)

pytestmark = pytest.mark.anyio

API_KEY = "SK" + "5" * 32
TOOLS: tuple[Tool, ...] = (
    ("fetch_call", {"sid": SID}),
    ("list_calls", {}),
    ("create_call", placing()),
    ("delete_call", {"sid": SID}),
)
SECRET_ARGUMENTS = {"sip_auth_password": SIP_PASSWORD, "call_token": CALL_TOKEN}
SIP_CALL = placing(to="sip:reception@example.com", **SECRET_ARGUMENTS)
CREDENTIALS = {
    "auth token": {"TWILIO_AUTH_TOKEN": AUTH_TOKEN},
    "API key": {"TWILIO_API_KEY": API_KEY, "TWILIO_API_SECRET": API_SECRET},
}


def test_item_16_a_canary_is_found_in_whatever_form_it_is_told() -> None:
    pair = base64.b64encode(f"{ACCOUNT}:{AUTH_TOKEN}".encode()).decode()
    told = (
        *(AUTH_TOKEN, f"x{AUTH_TOKEN[:12]}…", AUTH_TOKEN.encode().hex(), pair, repr(AUTH_TOKEN)),
        *(quote(AUTH_TOKEN, safe=""), base64.urlsafe_b64encode(AUTH_TOKEN.encode()).decode()),
        base64.b64encode(f"x{AUTH_TOKEN}".encode()).decode(),
    )
    assert all(betrayed(text) for text in told)
    assert not betrayed(AUTH_TOKEN[:11] + "…")
    assert len({form for secret in SECRETS.values() for form in forms(secret[:12])}) > 30


async def use(server: Server, name: str, **arguments: object) -> dict[str, Any]:
    """Call a tool, and again with the token it asks to be confirmed with."""
    answered = await server.ask("tools/call", name=name, arguments=arguments)
    content: dict[str, Any] = answered["result"]["structuredContent"]
    if "confirmation" not in content:
        return content
    again = arguments | {"confirmation_token": content["confirmation"]["token"]}
    answered = await server.ask("tools/call", name=name, arguments=again)
    return dict(answered["result"]["structuredContent"])


async def exercise(server: Server) -> None:
    """Use everything that may fail, with secrets in arguments right and wrong."""
    await server.ask("tools/list")
    await use(server, "create_call", **SIP_CALL)
    await use(server, "create_call", **SIP_CALL)
    misplaced = ("sip_auth_pasword", "SipAuthPassword", "password", "call_tokn", "CallToken")
    for name in misplaced:
        await use(server, "create_call", **placing(**{name: SIP_PASSWORD}))
    for wrong in ([SIP_PASSWORD], {"x": SIP_PASSWORD}, f"{SIP_PASSWORD}\0", SIP_PASSWORD * 400):
        await use(server, "create_call", **placing(sip_auth_password=wrong, call_token=wrong))
    await use(server, "fetch_call", sid=SID)
    await use(server, "list_calls")
    await use(server, "update_call", sid=SID, status="completed")
    await use(server, "delete_call", sid=SID)
    await server.ask("tools/call", name="no_such_tool", arguments=SECRET_ARGUMENTS)
    await server.ask("prompts/get", name="place_call", arguments={"x": SIP_PASSWORD})
    await server.ask("tools/call", name="create_call", arguments=SIP_CALL, requestState="x")
    await server.write("no JSON")
    await server.ask("ping")


def dumped(database: Path) -> str:
    """All that an SQLite file holds, as text and as it is on the disk."""
    with closing(sqlite3.connect(database)) as connection:
        rows = "\n".join(connection.iterdump())
    return rows + database.read_bytes().decode("latin-1")


@pytest.mark.parametrize("credentials", CREDENTIALS)
async def test_item_16_no_secret_is_in_any_output_log_record_or_process_argument(
    tmp_path: Path, credentials: str
) -> None:
    file, database, state = (tmp_path / name for name in ("a.jsonl", "a.db", "s.db"))
    failures = (
        *(answer(401, {"message": "Authenticate"}), answer(500), drop, answer(200, b"{")),
        *(redirect("/elsewhere"), answer(200, call())),
    )
    async with Upstream(answer(201, call()), *failures) as upstream:
        variables = environment(upstream.base_url) | {
            "TWILIO_AUTH_TOKEN": "",
            **CREDENTIALS[credentials],
            "CALLS_MCP_SECRET_KEYS": KEY,
            "CALLS_MCP_STATE_URL": f"sqlite:///{state}",
            "CALLS_MCP_AUDIT_FILE": str(file),
            "CALLS_MCP_AUDIT_DATABASE": str(database),
            "CALLS_MCP_AUDIT_NUMBERS": "whole",
            "CALLS_MCP_LOG_LEVEL": "DEBUG",
            "CALLS_MCP_DEADLINE": "1",
        }
        async with started(variables) as server:
            await exercise(server)
            processes = [Path("/proc") / str(server.process.pid) / "cmdline"]
            arguments = [path.read_text("utf-8") for path in processes if path.exists()]
            assert await server.end() == 0
            shown = {
                "stdout": "".join(server.lines),
                "stderr": server.logged(),
                "process arguments": "".join(arguments),
                "audit file": file.read_text("utf-8"),
                "audit database": dumped(database),
                "state": dumped(state),
            }
        sent = upstream.requests[0]
    assert SIP_PASSWORD not in shown["stderr"]
    assert sent.headers["authorization"].startswith("Basic ")
    assert b"SipAuthPassword=" in sent.body  # it did go where it belongs
    assert "create_call" in shown["audit file"]
    assert shown["stderr"]
    assert {where: found for where, text in shown.items() if (found := betrayed(text))} == {}


async def test_item_16_no_password_of_the_state_store_is_shown_when_it_can_not_be_reached(
    tmp_path: Path,
) -> None:
    with refusing() as nobody:
        port = nobody.rpartition(":")[2]
        urls = (
            f"redis://:{REDIS_PASSWORD}@127.0.0.1:{port}/0",
            f"redis://user:{REDIS_PASSWORD}@127.0.0.1:{port}/0?no_such_option=1",
            f"redis://user:{REDIS_PASSWORD}@127.0.0.1:port/0",
            f"redis://127.0.0.1:{port}/0?password={REDIS_PASSWORD}",
            f"rdis://:{REDIS_PASSWORD}@127.0.0.1:{port}/0",
        )
        for number, url in enumerate(urls):
            audit = tmp_path / f"{number}.jsonl"
            variables = environment(
                nobody,
                CALLS_MCP_STATE_URL=url,
                CALLS_MCP_LOG_LEVEL="DEBUG",
                CALLS_MCP_AUDIT_FILE=str(audit),
            )
            async with started(variables) as server:
                if number in (0, 3):
                    outcome = await use(server, "create_call", **placing())
                    assert outcome["error"]["kind"] == "store_unavailable"
                assert await server.end() in (0, 2)
                text = "".join(server.lines) + server.logged()
            text += audit.read_text("utf-8") if audit.exists() else ""
            assert betrayed(text) == []


ECHOES: Mapping[str, str] = {
    "the header": "{header}",
    "the header's value": "{basic}",
    "the pair": "{pair}",
    "the secret": "{secret}",
    "the secret in URL encoding": "{encoded}",
    "the secret in base64": "{alone}",
    "the secret in hex": "{hex}",
}


def echoing(template: str, status: int) -> Step:
    """Answer with what was sent for authorization."""

    async def play(exchange: Exchange) -> None:
        header = exchange.request.headers["authorization"]
        basic = header.partition(" ")[2]
        pair = base64.b64decode(basic).decode()
        secret = pair.partition(":")[2]
        raw = secret.encode()
        said = template.format(
            header=header,
            basic=basic,
            pair=pair,
            secret=secret,
            encoded=quote(secret, safe=""),
            alone=base64.b64encode(raw).decode(),
            hex=raw.hex(),
            start=secret[:14],
            part=basic[:70],
        )
        body = {"code": 20003, "message": f"{'x' * 200} {said} is wrong {said}", "detail": said}
        await answer(status, body)(exchange)

    return play


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [302, 400, 401, 429, 500])
async def test_item_16_a_credential_that_the_api_echoes_is_masked(
    caplog: pytest.LogCaptureFixture, echo: str, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    step = echoing(ECHOES[echo], status)
    settings = load_settings({"calls_mcp_policy": PERMISSIVE, "calls_mcp_confirm": "none"})
    async with Upstream(step) as upstream, speaking(upstream, settings) as agent:
        told = [(await agent.client.call_tool(*tool)).model_dump_json() for tool in TOOLS]
    assert [betrayed(unquote(text)) for text in told] == [[]] * 4
    assert [betrayed(text) for text in told] == [[]] * 4
    assert betrayed(caplog.text) == []


@asynccontextmanager
async def speaking(upstream: Upstream, settings: Settings) -> AsyncGenerator[Agent]:
    reached = replace(access(upstream.base_url, deadline=0.4), password=AUTH_TOKEN)
    async with Runtime(settings, reached) as runtime, Client(build_server(runtime)) as client:
        yield Agent(client)


def everything(settings: Settings) -> Iterator[str]:
    """How settings, and what is made of them, may be shown."""
    access = settings.twilio.access()
    yield from (repr(settings), str(settings), repr(settings.model_dump()))
    yield from (settings.model_dump_json(), repr(access), str(access))
    yield repr(settings.model_copy())


def within(value: object, depth: int = 6) -> Iterator[str]:
    """The representations of an object, and of what it is made of."""
    yield repr(value)
    if depth and type(value).__module__.startswith("calls_mcp"):
        for name, part in vars(value).items() if hasattr(value, "__dict__") else ():
            if not isinstance(part, str | tuple):  # a secret itself must be somewhere
                assert name
                yield from within(part, depth - 1)


async def test_item_16_no_secret_is_in_a_representation() -> None:
    settings = load_settings(
        {
            "twilio_account_sid": ACCOUNT,
            "twilio_auth_token": AUTH_TOKEN,
            "twilio_api_key": API_KEY,
            "twilio_api_secret": API_SECRET,
            "calls_mcp_secret_keys": KEY,
        }
    )
    async with Runtime(settings, settings.twilio.access()) as runtime, runtime.invoker() as invoker:
        server = build_server(runtime)
        shown = (*everything(settings), *within(runtime), *within(invoker), repr(server))
    assert len(shown) > 20
    assert [found for text in shown if (found := betrayed(text))] == []


@pytest.mark.parametrize("step", [drop, answer(401, {"message": AUTH_TOKEN}), answer(500)])
async def test_item_16_no_secret_is_in_an_exception_or_its_traceback(step: Step) -> None:
    async with Upstream(step) as upstream:
        reached = replace(access(upstream.base_url, deadline=0.3), password=AUTH_TOKEN)
        twilio = TwilioClient(reached)
        request = Request("place", "POST", "/x", ACCOUNT, form=(("SipAuthPassword", SIP_PASSWORD),))
        with pytest.raises(CallsError) as raised:
            await twilio.send(request)
        await twilio.aclose()
    assert betrayed("".join(traceback.format_exception(raised.value)) + repr(raised.value)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"calls_mcp_secret_keys": KEY[:31]},
        {"calls_mcp_secret_keys": f"{KEY} {KEY}"},
        {"twilio_account_sid": AUTH_TOKEN},
        {"twilio_api_key": API_SECRET},
        {"twilio_auth_token": [AUTH_TOKEN]},
        {"twilio_api_secret": {"x": API_SECRET}},
        {"calls_mcp_api_base_url": f"https://x:{REDIS_PASSWORD}@example.com"},
        {"calls_mcp_api_base_url": f"ftp://{REDIS_PASSWORD}"},
        {"calls_mcp_confirm_ttl": AUTH_TOKEN},
    ],
    ids=str,
)
def test_item_16_no_secret_is_in_the_error_of_a_wrong_setting(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(wrong)
    assert betrayed("".join(traceback.format_exception(raised.value)) + repr(raised.value)) == []


# 17


async def test_item_17_the_http_client_logs_neither_authorization_nor_queries(
    tmp_path: Path,
) -> None:
    listing = page(call(), following="/x?PageToken=PAcanary&Page=1&PageSize=1")
    script = (answer(200, listing), answer(200, page(call())), answer(201, call()), drop)
    async with Upstream(*script) as upstream:
        variables = environment(
            upstream.base_url,
            TWILIO_AUTH_TOKEN=AUTH_TOKEN,
            CALLS_MCP_LOG_LEVEL="DEBUG",
            CALLS_MCP_DEADLINE="0.5",
            CALLS_MCP_AUDIT_FILE=str(tmp_path / "audit.jsonl"),
        )
        async with started(variables) as server:
            await use(server, "list_calls", to="+15005550123", start_time="2026-01-31", limit=2)
            await use(server, "create_call", **SIP_CALL)
            await use(server, "fetch_call", sid=SID)
            await server.end()
            log = server.logged()
    assert upstream.requests[0].query["To"] == "+15005550123"
    assert upstream.requests[1].query["PageToken"] == "PAcanary"
    assert log
    assert not re.search(r"authorization|basic ", log, re.IGNORECASE)
    for told in ("15005550123", "2026-01-31", "PAcanary", "PageSize", "?", CALLER[1:]):
        assert told not in log
    assert betrayed(log) == []


# 18


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        pytest.param({"TWILIO_ACCOUNT_SID": ""}, "TWILIO_ACCOUNT_SID", id="no account"),
        pytest.param({"TWILIO_AUTH_TOKEN": ""}, "TWILIO_AUTH_TOKEN", id="no token"),
        pytest.param({"TWILIO_API_KEY": API_KEY, "TWILIO_AUTH_TOKEN": ""}, "TWILIO_API_SECRET"),
        pytest.param({"TWILIO_API_SECRET": API_SECRET, "TWILIO_AUTH_TOKEN": ""}, "TWILIO_API_KEY"),
        pytest.param({"TWILIO_ACCOUNT_SID": AUTH_TOKEN}, "TWILIO_ACCOUNT_SID", id="no SID"),
        pytest.param({"TWILIO_ACCOUNT_SID": f"{ACCOUNT}\n"}, "TWILIO_ACCOUNT_SID", id="a newline"),
        pytest.param({"TWILIO_ACCOUNT_SID": API_KEY}, "TWILIO_ACCOUNT_SID", id="a key's SID"),
        pytest.param({"TWILIO_API_KEY": API_SECRET}, "TWILIO_API_KEY", id="no key's SID"),
        pytest.param({"TWILIO_REGION": "ie1.evil.example/"}, "TWILIO_REGION", id="a region"),
        pytest.param({"TWILIO_EDGE": "x@evil.example"}, "TWILIO_EDGE", id="an edge"),
        pytest.param(
            {"CALLS_MCP_API_BASE_URL": "http://example.com"}, "CALLS_MCP_API_BASE_URL", id="http"
        ),
        pytest.param({"CALLS_MCP_SECRET_KEYS": KEY[:20]}, "CALLS_MCP_SECRET_KEYS", id="short keys"),
    ],
)
async def test_item_18_a_credential_that_is_missing_or_ill_formed_is_named_in_one_line(
    variables: dict[str, str], named: str
) -> None:
    given = environment("http://127.0.0.1:1", TWILIO_AUTH_TOKEN=AUTH_TOKEN) | variables
    async with started(given) as server:
        with anyio.fail_after(30):
            assert await server.process.wait() == 2
        assert await server.end() == 2
        (line,) = server.logged().splitlines()
    assert server.lines == []
    assert named in line
    assert betrayed(line) == []
    assert not any(value.strip() in line for value in variables.values() if value)


@pytest.mark.parametrize("status", [401, 403])
async def test_item_18_credentials_that_the_api_rejects_are_told_in_one_plain_line(
    status: int,
) -> None:
    body = {"code": 20003, "message": "Authenticate"}
    async with scripted(answer(status, body)) as (_, agent):
        outcome = await agent.call("fetch_call", sid=SID)
    assert outcome["error"]["kind"] == "credentials_rejected"
    assert "operator" in outcome["error"]["hint"]
    assert len(outcome["error"]["message"].splitlines()) == 1
    assert json.dumps(outcome)


async def test_item_18_without_credentials_the_sandbox_needs_none() -> None:
    async with open_rig(sandbox=True) as rig, rig.connect() as agent:
        assert (await agent.call("list_calls"))["sandbox"] is True
