"""Item 44: nothing is told to anybody unless it is asked for, and nothing secret even then."""

import re
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from tests.rig import CALLER, TALKS_FOR_AN_HOUR, TWIML, open_rig, placing
from tests.security.canary import AUTH_TOKEN, CALL_TOKEN, KEY, SIP_PASSWORD, betrayed
from tests.security.process import MODERN, Server, environment, started
from tests.upstream import SID, Upstream, answer, call, drop

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
META = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "tracestate": "x=1", "baggage": "y=2"}
STRANGER = "15005550177"
SIP_CALL = placing(
    to="sip:reception@example.com", sip_auth_password=SIP_PASSWORD, call_token=CALL_TOKEN
)


async def test_item_44_nothing_is_told_to_anybody_unless_it_is_asked_for(tmp_path: Path) -> None:
    async with Upstream(answer(201, call())) as api, Upstream(answer(200)) as collector:
        variables = environment(
            api.base_url,
            CALLS_MCP_CONFIRM="none",
            CALLS_MCP_AUDIT_FILE=str(tmp_path / "audit.jsonl"),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.base_url,
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_METRICS_EXPORTER="otlp",
        )
        async with started(variables) as server:
            await server.initialize()
            await server.request("tools/call", name="create_call", arguments=placing(), _meta=META)
            await server.read()
            assert await server.end() == 0
            assert server.logged() == ""
        (placed,) = api.requests
        assert collector.connections == 0
    assert not placed.headers.keys() & META.keys()


async def test_item_44_a_trace_context_is_no_authority() -> None:
    meta = cast("Any", META)
    async with open_rig() as rig, rig.connect(name="one") as one, rig.connect(name="two") as two:
        asked = await one.client.call_tool("create_call", placing(), meta=meta)
        token = cast("dict[str, Any]", asked.structured_content)["confirmation"]["token"]
        again = placing(confirmation_token=token)
        stolen = await two.client.call_tool("create_call", again, meta=meta)
        assert rig.changes == []
        own = await one.client.call_tool("create_call", again)
        assert len(rig.changes) == 1
    refused = cast("dict[str, Any]", stolen.structured_content)["error"]
    assert refused["kind"] == "invalid_confirmation"
    assert cast("dict[str, Any]", own.structured_content)["outcome"] == "done"


async def test_item_44_what_is_told_has_no_secret_number_or_argument(tmp_path: Path) -> None:
    failures = (answer(401, {"message": f"{AUTH_TOKEN} {STRANGER}"}), answer(500), drop)
    async with (
        Upstream(answer(201, call()), *failures) as api,
        Upstream(answer(200)) as collector,
        started(
            environment(
                api.base_url,
                TWILIO_AUTH_TOKEN=AUTH_TOKEN,
                CALLS_MCP_SECRET_KEYS=KEY,
                CALLS_MCP_CONFIRM="none",
                CALLS_MCP_DEADLINE="1",
                CALLS_MCP_AUDIT_FILE=str(tmp_path / "audit.jsonl"),
                CALLS_MCP_LOG_FORMAT="json",
                CALLS_MCP_LOG_LEVEL="DEBUG",
                CALLS_MCP_TELEMETRY="otlp",
                CALLS_MCP_METRICS_ADDRESS="127.0.0.1:0",
                OTEL_EXPORTER_OTLP_ENDPOINT=collector.base_url,
            )
        ) as server,
    ):
        await exercise(server)
        scraped = await scrape(server)
        assert await server.end() == 0
        shown = {
            "log": server.logged(),
            "metrics": scraped,
            **{r.target: r.body.decode("latin-1") for r in collector.requests},
        }
    assert shown.keys() == {"log", "metrics", "/v1/traces", "/v1/metrics"}
    assert "tools/call other" in shown["/v1/traces"]
    assert 'tool="create_call"' in shown["metrics"]
    numbers = [STRANGER, CALLER.lstrip("+"), TALKS_FOR_AN_HOUR.lstrip("+")]
    for where, text in shown.items():
        assert betrayed(text) == [], where
        told = [one for one in (*numbers, TWIML, "reception@", "<Response") if one in text]
        assert told == [], where


ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": SIP_PASSWORD, "version": STRANGER},
    "io.modelcontextprotocol/clientCapabilities": {},
}


async def exercise(server: Server) -> None:
    """Do what goes right and wrong, with secrets and numbers in whatever a client may choose."""
    await use(server, "create_call", SIP_CALL)
    await use(server, "create_call", placing())
    await use(server, "create_call", placing(sip_auth_pasword=SIP_PASSWORD))
    await use(server, "update_call", {"sid": SID, "twiml": TWIML})
    await use(server, "list_calls", {"to": f"+{STRANGER}"})
    await use(server, STRANGER, {"to": STRANGER})
    await server.ask(f"tools/{STRANGER}")
    await server.ask("prompts/get", name=STRANGER, arguments={"x": SIP_PASSWORD})
    await server.ask("prompts/get", name="place_call", arguments={STRANGER: SIP_PASSWORD})
    await server.ask("tools/call", name="create_call", arguments=SIP_CALL, requestState="x")
    await server.send(id=STRANGER, method="tools/list", params={"_meta": ENVELOPE})
    await server.read()
    await server.send(method=f"notifications/{STRANGER}", params={"x": SIP_PASSWORD})
    await server.write(f"no JSON {SIP_PASSWORD} {STRANGER}")
    await server.ask("ping")


async def use(server: Server, name: str, arguments: dict[str, object]) -> None:
    await server.ask("tools/call", name=name, arguments=arguments)


async def scrape(server: Server) -> str:
    (url,) = re.findall(r"http://127\.0\.0\.1:[0-9]+/metrics", server.logged())
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(url)).text
