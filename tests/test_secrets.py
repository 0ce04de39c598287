"""Credentials are never shown, in any output or encoding."""

import base64
import json
import logging
import re
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from calls_mcp.errors import CallsError
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Request
from tests.harness import ACCOUNT, CALLER, TALKS_FOR_AN_HOUR, TWIML, open_harness, placing
from tests.process import MODERN, Server, environment, started
from tests.secrets import (
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
from tests.upstream import SID, Step, Upstream, access, answer, call, drop, page, redirect, refusing

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("16")]

API_KEY = "SK" + "5" * 32
SIP_CALL = placing(
    to="sip:reception@example.com", sip_auth_password=SIP_PASSWORD, call_token=CALL_TOKEN
)
STRANGER = "15005550177"
NUMBERS = (STRANGER, CALLER[1:], TALKS_FOR_AN_HOUR[1:])
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": SIP_PASSWORD, "version": STRANGER},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def test_a_secret_is_found_in_every_encoding() -> None:
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
    """Call a tool, and confirm it with its token if needed."""
    answered = await server.ask("tools/call", name=name, arguments=arguments)
    content: dict[str, Any] = answered.get("result", {}).get("structuredContent", {})
    if "confirmation" not in content:
        return content
    again = arguments | {"confirmation_token": content["confirmation"]["token"]}
    answered = await server.ask("tools/call", name=name, arguments=again)
    return dict(answered["result"]["structuredContent"])


async def exercise(server: Server) -> None:
    """Use everything that can fail, with secrets and numbers in all values from a client."""
    await server.ask("tools/list")
    await use(server, "create_call", **SIP_CALL)
    await use(server, "create_call", **SIP_CALL)
    await use(server, "create_call", **placing())
    misplaced = ("sip_auth_pasword", "SipAuthPassword", "password", "call_tokn", "CallToken")
    for name in misplaced:
        await use(server, "create_call", **placing(**{name: SIP_PASSWORD}))
    for wrong in ([SIP_PASSWORD], {"x": SIP_PASSWORD}, f"{SIP_PASSWORD}\0", SIP_PASSWORD * 400):
        await use(server, "create_call", **placing(sip_auth_password=wrong, call_token=wrong))
    await use(server, "fetch_call", sid=SID)
    await use(server, "list_calls", to=f"+{STRANGER}")
    await use(server, "update_call", sid=SID, twiml=TWIML)
    await use(server, "update_call", sid=SID, status="completed")
    await use(server, "delete_call", sid=SID)
    await use(server, STRANGER, to=STRANGER, password=SIP_PASSWORD)
    await server.ask(f"tools/{STRANGER}")
    await server.ask("prompts/get", name=STRANGER, arguments={"x": SIP_PASSWORD})
    await server.ask("prompts/get", name="place_call", arguments={STRANGER: SIP_PASSWORD})
    await server.ask("tools/call", name="create_call", arguments=SIP_CALL, requestState="x")
    await server.send(id=STRANGER, method="tools/list", params={"_meta": ENVELOPE})
    await server.read()
    await server.send(method=f"notifications/{STRANGER}", params={"x": SIP_PASSWORD})
    await server.write(f"no JSON {SIP_PASSWORD} {STRANGER}")
    await server.ask("ping")


def dumped(database: Path) -> str:
    """The content of an SQLite file, as SQL and as raw bytes."""
    with closing(sqlite3.connect(database)) as connection:
        rows = "\n".join(connection.iterdump())
    return rows + database.read_bytes().decode("latin-1")


async def scraped(server: Server) -> str:
    (url,) = re.findall(r"http://127\.0\.0\.1:[0-9]+/metrics", server.logged())
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(url)).text


@pytest.mark.process
@pytest.mark.requirement("42", "44")
@pytest.mark.parametrize(
    "credentials",
    [
        {"TWILIO_AUTH_TOKEN": AUTH_TOKEN, "CALLS_MCP_LOG_FORMAT": "json"},
        {"TWILIO_API_KEY": API_KEY, "TWILIO_API_SECRET": API_SECRET, "TWILIO_AUTH_TOKEN": ""},
    ],
    ids=["auth token", "API key"],
)
async def test_no_secret_is_in_any_output_log_record_span_or_process_argument(
    tmp_path: Path, credentials: dict[str, str]
) -> None:
    """Phone numbers are only in the audit log and the state, not in logs or telemetry."""
    database, state = tmp_path / "audit.db", tmp_path / "state.db"
    secret = credentials.get("TWILIO_API_SECRET", AUTH_TOKEN)
    failures = (
        answer(401, {"message": f"{secret} {STRANGER}"}),
        *(answer(500), drop, answer(200, b"{"), redirect("/elsewhere"), answer(200, call())),
    )
    async with (
        Upstream(answer(201, call()), *failures) as upstream,
        Upstream(answer(200)) as collector,
    ):
        variables = environment(upstream.base_url) | {
            **credentials,
            "CALLS_MCP_SECRET_KEYS": KEY,
            "CALLS_MCP_STATE_URL": f"sqlite:///{state}",
            "CALLS_MCP_AUDIT_DATABASE": str(database),
            "CALLS_MCP_AUDIT_NUMBERS": "whole",
            "CALLS_MCP_LOG_LEVEL": "DEBUG",
            "CALLS_MCP_DEADLINE": "1",
            "CALLS_MCP_TELEMETRY": "otlp",
            "CALLS_MCP_METRICS_ADDRESS": "127.0.0.1:0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.base_url,
        }
        async with started(variables) as server:
            await exercise(server)
            metrics = await scraped(server)
            command = Path("/proc") / str(server.process.pid) / "cmdline"
            arguments = command.read_text("utf-8") if command.exists() else ""
            assert await server.end() == 0
            assert {json.loads(line)["jsonrpc"] for line in server.lines} == {"2.0"}
            told = {
                "stderr": server.logged(),
                "metrics": metrics,
                **{target: body.decode("latin-1") for target, body in collector.bodies.items()},
            }
            kept = {
                "stdout": "".join(server.lines),
                "process arguments": arguments,
                "audit database": dumped(database),
                "state": dumped(state),
            }
        sent = upstream.requests[0]
    assert sent.headers["authorization"].startswith("Basic ")
    assert b"SipAuthPassword=" in sent.body  # it was sent to the API
    assert "create_call" in kept["audit database"]
    assert told.keys() == {"stderr", "metrics", "/v1/traces", "/v1/metrics"}
    assert "tools/call other" in told["/v1/traces"]
    assert {
        where: found for where, text in (told | kept).items() if (found := betrayed(text))
    } == {}
    for where, text in told.items():
        words = (*NUMBERS, TWIML, "reception@", "<Response")
        assert [word for word in words if word in text] == [], where


@pytest.mark.process
@pytest.mark.requirement("17")
async def test_no_log_contains_request_parameters(tmp_path: Path) -> None:
    listing = page(call(), following="/x?PageToken=PAcanary&Page=1&PageSize=1")
    script = (answer(200, listing), answer(200, page(call())), answer(201, call()), drop)
    async with Upstream(*script) as upstream:
        variables = environment(
            upstream.base_url,
            TWILIO_AUTH_TOKEN=AUTH_TOKEN,
            CALLS_MCP_LOG_LEVEL="DEBUG",
            CALLS_MCP_DEADLINE="0.5",
            CALLS_MCP_AUDIT_DATABASE=str(tmp_path / "audit.db"),
        )
        async with started(variables) as server:
            await use(server, "list_calls", to=f"+{STRANGER}", start_time="2026-01-31", limit=2)
            await use(server, "create_call", **SIP_CALL)
            await use(server, "fetch_call", sid=SID)
            await server.end()
            log = server.logged()
    assert upstream.requests[0].query["To"] == f"+{STRANGER}"
    assert upstream.requests[1].query["PageToken"] == "PAcanary"
    assert log
    assert not re.search(r"authorization|basic ", log, re.IGNORECASE)
    for told in (*NUMBERS, "2026-01-31", "PAcanary", "PageSize", "?"):
        assert told not in log
    assert betrayed(log) == []


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{password}@{host}/0",
        "redis://user:{password}@127.0.0.1:port/0",
        "redis://{host}/0?password={password}",
        "rdis://:{password}@{host}/0",
    ],
)
async def test_the_password_of_an_unreachable_store_is_not_shown(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = ""
    with refusing() as nobody:
        url = url.format(password=REDIS_PASSWORD, host=nobody.removeprefix("http://"))
        try:
            async with open_harness(calls_mcp_state_url=url) as harness, harness.connect() as agent:
                result = await agent.client.call_tool("create_call", placing())
                assert "store_unavailable" in (told := result.model_dump_json())
        except CallsError as error:
            told = "".join(traceback.format_exception(error))
    assert told
    assert betrayed(told + caplog.text) == []


def within(value: object, depth: int = 6) -> Iterator[str]:
    """The representations of an object and its attributes."""
    yield repr(value)
    if depth and type(value).__module__.startswith("calls_mcp"):
        for part in vars(value).values() if hasattr(value, "__dict__") else ():
            if not isinstance(part, str | tuple):  # a secret itself must be somewhere
                yield from within(part, depth - 1)


async def test_no_secret_is_in_a_representation() -> None:
    given: dict[str, object] = {
        "twilio_account_sid": ACCOUNT,
        "twilio_auth_token": AUTH_TOKEN,
        "twilio_api_key": API_KEY,
        "twilio_api_secret": API_SECRET,
        "calls_mcp_secret_keys": KEY,
    }
    redis = f"redis://:{REDIS_PASSWORD}@127.0.0.1:1/0"
    settings, all_of_it = (
        load_settings(given),
        load_settings(given | {"calls_mcp_state_url": redis}),
    )
    shown = [all_of_it.model_dump_json(), str(all_of_it.model_dump()), repr(settings.model_copy())]
    access = settings.twilio.access()
    async with Runtime(settings, access) as runtime, runtime.invoker() as invoker:
        parts = (settings, all_of_it, access, runtime, invoker, build_server(runtime))
        shown += [text for part in parts for text in within(part)] + [*map(str, parts)]
    assert len(shown) > 20
    assert [found for text in shown if (found := betrayed(text))] == []


@pytest.mark.parametrize("step", [drop, answer(401, {"message": AUTH_TOKEN}), answer(500)])
async def test_no_secret_is_in_an_exception_or_its_traceback(step: Step) -> None:
    async with Upstream(step) as upstream:
        reached = replace(access(upstream.base_url, deadline=1), password=AUTH_TOKEN)
        twilio = TwilioClient(reached)
        request = Request("place", "POST", "/x", ACCOUNT, form=(("SipAuthPassword", SIP_PASSWORD),))
        with pytest.raises(CallsError) as raised:
            await twilio.send(request)
        await twilio.aclose()
    assert betrayed("".join(traceback.format_exception(raised.value)) + repr(raised.value)) == []
