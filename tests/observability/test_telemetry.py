"""Spans, metrics and logs, as their receivers see them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from calls_mcp.cli.main import main
from calls_mcp.observability import telemetry
from calls_mcp.settings import load_settings
from calls_mcp.twilio.circuit_breaker import CircuitState
from tests.harness import CALLER, User, decline, open_harness, placing
from tests.process import Server, environment, started
from tests.telemetry import Recording, Tree, recording, told
from tests.upstream import SID, Step, Upstream, answer, call, drop, hang, scripted

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
ATTEMPT: Tree = ("attempt POST", [])
TOO_MANY = answer(429, {"message": "Too many requests"})


@pytest.fixture
def recorded() -> Generator[Recording]:
    with recording() as recorded:
        yield recorded


# Spans


async def test_a_confirmed_call_with_one_retry_has_a_span_for_each_attempt(
    recorded: Recording,
) -> None:
    script = (TOO_MANY, answer(201, call()))
    async with scripted(*script, calls_mcp_confirm="all") as (_, agent):
        outcome = await agent.confirm("create_call", **placing())
    assert outcome["outcome"] == "done"
    assert recorded.invocations() == [
        ("tools/call create_call", [("guard", [])]),
        ("tools/call create_call", [("guard", []), ("upstream place", [ATTEMPT, ATTEMPT])]),
    ]
    asked, confirmed = recorded.named("guard")
    assert told(asked)["calls_mcp.decision"] == "asked"
    assert told(confirmed)["calls_mcp.decision"] == "allowed"
    refused, answered = recorded.named("attempt POST")
    assert told(refused) == {
        "calls_mcp.effect": "place",
        "error.type": "rate_limited",
        "http.request.method": "POST",
        "http.request.resend_count": 0,
        "http.response.status_code": 429,
    }
    assert refused.status.status_code is StatusCode.ERROR
    assert refused.kind is SpanKind.CLIENT
    assert told(answered)["http.response.status_code"] == 201
    assert told(answered)["http.request.resend_count"] == 1
    assert told(recorded.named("upstream place")[0])["calls_mcp.attempts"] == 2
    served = told(recorded.named("tools/call create_call")[-1])
    assert served["calls_mcp.outcome"] == "done"
    assert served["calls_mcp.sid"] == SID
    assert served["calls_mcp.confirmed_by"] == "token"


async def test_reads_of_the_guard_are_in_its_span(recorded: Recording) -> None:
    async with scripted(answer(200, call(status="in-progress")), calls_mcp_confirm="all") as (
        _,
        agent,
    ):
        await agent.call("update_call", sid=SID, status="completed")
    (tree,) = recorded.invocations()
    assert tree == (
        "tools/call update_call",
        [("guard", [("upstream read", [("attempt GET", [])])])],
    )


async def test_an_attempt_without_a_response_has_the_kind_of_failure(
    recorded: Recording,
) -> None:
    async with scripted(drop, deadline=1.5) as (_, agent):
        await agent.call("fetch_call", sid=SID)
    first, *_ = recorded.named("attempt GET")
    assert told(first)["error.type"] == "unavailable"
    assert "http.response.status_code" not in told(first)


@pytest.mark.requirement("44")
async def test_spans_have_no_text_chosen_by_a_client(
    recorded: Recording,
) -> None:
    number = "+15005550177"
    async with scripted(answer(500, {"message": number}), deadline=1) as (_, agent):
        meta = cast(
            "Any", {"traceparent": TRACEPARENT, "tracestate": "x=15005550177", "baggage": "a=b"}
        )
        await agent.client.call_tool("create_call", placing(to=number), meta=meta)
        for name in (number, f"create_call {number}"):
            with pytest.raises(Exception, match="Unknown tool"):
                await agent.client.call_tool(name, {"to": number})
        with pytest.raises(Exception, match="Unknown prompt"):
            await agent.client.get_prompt(number)
    shown = "\n".join(span.to_json() for span in recorded.spans if span.kind != SpanKind.CLIENT)
    assert "tools/call other" in shown
    assert "15005550177" not in shown
    assert all(not span.context.trace_state for span in recorded.spans if span.context)


# Trace headers for the API


async def test_a_clients_trace_id_is_not_sent_to_the_api(recorded: Recording) -> None:
    async with scripted(TOO_MANY, answer(201, call())) as (upstream, agent):
        meta = {"traceparent": TRACEPARENT, "tracestate": "a=b", "baggage": "c=d"}
        await agent.client.call_tool("create_call", placing(), meta=cast("Any", meta))
    attempts = recorded.named("attempt POST")
    sent = [parse(request.headers["traceparent"]) for request in upstream.requests]
    assert [span for _, span in sent] == [
        format_span_id(attempt.context.span_id) for attempt in attempts if attempt.context
    ]
    (told_trace,) = {trace_id for trace_id, _ in sent}
    known = {format_trace_id(span.context.trace_id) for span in recorded.spans if span.context}
    assert told_trace not in known | {TRACE}
    assert {told(attempt)["calls_mcp.upstream.trace_id"] for attempt in attempts} == {told_trace}
    for request in upstream.requests:
        assert not request.headers.keys() & {"tracestate", "baggage"}


# Metrics


async def test_tool_calls_decisions_and_requests_are_counted(
    recorded: Recording, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[confirm]\ndelete = "deny"\n', "utf-8")
    async with open_harness(calls_mcp_policy=policy, calls_mcp_confirm_ttl=60) as harness:
        async with harness.connect() as agent:
            asked = await agent.call("create_call", **placing())
            again = placing(confirmation_token=asked["confirmation"]["token"])
            await agent.call("create_call", **again)
            await agent.call("create_call", **again)
            late = await agent.call("create_call", **placing(to="+15005550206"))
            harness.clock.advance(61)
            token = late["confirmation"]["token"]
            await agent.call("create_call", **placing(to="+15005550206", confirmation_token=token))
            await agent.call("delete_call", sid=SID)
            await agent.call("list_calls")
            await agent.call("fetch_call", sid=SID)
            await agent.call("fetch_call", sid="nonsense")
        async with harness.connect(user=User(decline)) as agent:
            await agent.call("create_call", **placing(to="+15005550207"))
    counted = recorded.readings()
    assert counted["calls_mcp.confirmations"] == {
        ("asked", "create_call"): 3,
        ("accepted", "create_call"): 1,
        ("replayed", "create_call"): 1,
        ("expired", "create_call"): 1,
        ("declined", "create_call"): 1,
    }
    assert counted["calls_mcp.policy.denials"] == {("confirm.delete", "delete_call"): 1}
    assert counted["calls_mcp.invocations"] == {
        ("", "confirmation_required", "create_call"): 3,
        ("", "done", "create_call"): 2,
        ("", "expired", "create_call"): 1,
        ("", "declined", "create_call"): 1,
        ("policy_denied", "error", "delete_call"): 1,
        ("", "done", "list_calls"): 1,
        ("not_found", "error", "fetch_call"): 1,
        ("invalid_arguments", "error", "fetch_call"): 1,
    }
    assert counted["calls_mcp.upstream.duration"] == {
        ("place", "201"): 1,
        ("read", "200"): 1,
        ("read", "404"): 1,
    }
    assert "calls_mcp.upstream.retries" not in counted


async def test_a_read_of_a_denied_account_counts_as_a_denial(
    recorded: Recording, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[accounts]\nallow = ["AC{"1" * 32}"]\n', "utf-8")
    async with open_harness(calls_mcp_policy=policy) as harness, harness.connect() as agent:
        await agent.call("list_calls", to=CALLER)
    assert recorded.measured("calls_mcp.policy.denials") == {("accounts.allow", "list_calls"): 1}


async def test_retries_are_counted_by_kind_of_error(recorded: Recording) -> None:
    async with scripted(TOO_MANY, drop, answer(200, call())) as (_, agent):
        await agent.call("fetch_call", sid=SID)
    counted = recorded.readings()
    assert counted["calls_mcp.upstream.retries"] == {
        ("read", "rate_limited"): 1,
        ("read", "unavailable"): 1,
    }
    assert counted["calls_mcp.upstream.duration"] == {
        ("read", "429"): 1,
        ("read", "none"): 1,
        ("read", "200"): 1,
    }


@dataclass(eq=False)
class _Breaker:
    state: CircuitState


async def test_a_circuit_breaker_is_measured_until_it_is_removed(
    recorded: Recording,
) -> None:
    one, other = _Breaker("closed"), _Breaker("open")
    telemetry.observe_circuit(one)
    telemetry.observe_circuit(other)
    before = recorded.measured("calls_mcp.upstream.breakers")
    one.state = "half_open"
    after = recorded.measured("calls_mcp.upstream.breakers")
    telemetry.forget_circuit(one)
    del other
    assert before == {("closed",): 1, ("half_open",): 0, ("open",): 1}
    assert after == {("closed",): 0, ("half_open",): 1, ("open",): 1}
    assert recorded.measured("calls_mcp.upstream.breakers") == {}


# In a separate server


@asynccontextmanager
async def collected(
    folder: Path, *steps: Step
) -> AsyncGenerator[tuple[Upstream, Upstream, Server]]:
    """A server with all telemetry, the API, and a collector."""
    async with (
        Upstream(TOO_MANY, answer(201, call())) as api,
        Upstream(*steps or (answer(200),)) as collector,
        started(everything(folder, api, collector)) as server,
    ):
        yield api, collector, server


def everything(folder: Path, api: Upstream, collector: Upstream) -> dict[str, str]:
    return environment(
        api.base_url,
        CALLS_MCP_TELEMETRY="otlp",
        CALLS_MCP_METRICS_ADDRESS="127.0.0.1:0",
        CALLS_MCP_LOG_FORMAT="json",
        CALLS_MCP_LOG_LEVEL="DEBUG",
        CALLS_MCP_CONFIRM="none",
        CALLS_MCP_AUDIT_DATABASE=str(folder / "audit.db"),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.base_url,
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
    )


async def place(server: Server) -> None:
    await server.ask("tools/call", name="create_call", arguments=placing())


@pytest.mark.process
async def test_spans_and_metrics_are_exported_to_the_standard_endpoints_before_exit(
    tmp_path: Path,
) -> None:
    async with collected(tmp_path) as (api, collector, server):
        await place(server)
        assert await server.end() == 0
    sent = collector.bodies
    assert sent.keys() == {"/v1/traces", "/v1/metrics"}
    for name in (b"tools/call create_call", b"guard", b"upstream place", b"attempt POST"):
        assert name in sent["/v1/traces"]
    assert b"calls_mcp.invocations" in sent["/v1/metrics"]
    for body in sent.values():
        assert b"calls-mcp" in body
        assert b"deployment.environment.name" in body
    trace_id, span_id = parse(api.requests[-1].headers["traceparent"])
    assert bytes.fromhex(trace_id) in sent["/v1/traces"]  # no client began it, so it is passed on
    assert bytes.fromhex(span_id) in sent["/v1/traces"]


@pytest.mark.process
async def test_metrics_are_served_at_the_configured_address(tmp_path: Path) -> None:
    async with collected(tmp_path) as (_, _, server):
        await place(server)
        (url,) = re.findall(r"http://127\.0\.0\.1:[0-9]+/metrics", server.logged())
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(url)).text
        assert await server.end() == 0
    lines = text.splitlines()
    labels = 'error_kind="",outcome="done",tool="create_call"'
    assert f"calls_mcp_invocations_total{{{labels}}} 1.0" in lines
    assert 'calls_mcp_upstream_duration_seconds_count{effect="place",status="201"} 1.0' in lines
    retried = 'calls_mcp_upstream_retries_total{effect="place",error_kind="rate_limited"} 1.0'
    assert retried in lines


@pytest.mark.process
async def test_json_log_lines_have_the_ids_of_their_request(tmp_path: Path) -> None:
    async with collected(tmp_path) as (_, _, server):
        await place(server)
        await server.ask("tools/call", name="fetch_call", arguments={"sid": "nonsense"})
        await server.end()
        lines = [json.loads(line) for line in server.logged().splitlines()]
    about = [line for line in lines if "request_id" in line]
    placed = [line for line in about if line.get("tool") == "create_call"]
    assert [line["outcome"] for line in placed] == ["done"]
    of_the_same = [line for line in about if line["request_id"] == placed[0]["request_id"]]
    assert [line.get("attempt") for line in of_the_same] == [1, 2, None]
    assert {line["trace_id"] for line in of_the_same} == {placed[0]["trace_id"]}
    assert re.fullmatch(r"[0-9a-f]{32}", placed[0]["trace_id"])
    assert len({line["request_id"] for line in about}) == 2
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)


@pytest.mark.process
@pytest.mark.requirement("44")
async def test_without_telemetry_a_clients_trace_is_only_in_the_log(
    tmp_path: Path,
) -> None:
    async with Upstream(answer(201, call())) as api, Upstream(answer(200)) as collector:
        variables = environment(
            api.base_url,
            CALLS_MCP_CONFIRM="none",
            CALLS_MCP_LOG_FORMAT="json",
            CALLS_MCP_LOG_LEVEL="INFO",
            CALLS_MCP_AUDIT_DATABASE=str(tmp_path / "audit.db"),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.base_url,
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_METRICS_EXPORTER="otlp",
        )
        async with started(variables) as server:
            await server.initialize()
            meta = {"traceparent": TRACEPARENT, "tracestate": "x=1", "baggage": "y=2"}
            await server.request("tools/call", name="create_call", arguments=placing(), _meta=meta)
            await server.read()
            await server.end()
            lines = [json.loads(line) for line in server.logged().splitlines()]
        assert collector.connections == 0
        assert not api.requests[0].headers.keys() & meta.keys()
    assert {line["trace_id"] for line in lines if "tool" in line} == {TRACE}


@pytest.mark.process
async def test_a_silent_collector_does_not_delay_the_exit(tmp_path: Path) -> None:
    async with collected(tmp_path, hang) as (_, collector, server):
        await place(server)
        assert await server.end() == 0
        assert collector.requests


# Off


@pytest.mark.process
async def test_a_connecting_client_does_not_wait_for_telemetry() -> None:
    variables = environment("http://127.0.0.1:9", PYTHONPROFILEIMPORTTIME="1")
    async with started(variables) as server:
        await server.initialize()
        assert await server.end() == 0
        imported = {line.rpartition("|")[2].strip() for line in server.logged().splitlines()}
    assert "calls_mcp.server.handlers" in imported
    unneeded = r"opentelemetry\.(sdk|exporter|proto|metrics)|prometheus_client|httpx$"
    ours = r"calls_mcp\.(observability\.telemetry|twilio\.(client|circuit_breaker))$"
    assert [name for name in imported if re.match(f"{unneeded}|{ours}", name)] == []


@pytest.mark.process
def test_the_sdk_is_only_imported_if_needed() -> None:
    begun = subprocess.run(  # our own program
        [sys.executable, "-m", "calls_mcp", "serve", "--sandbox"],
        capture_output=True,
        check=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert "opentelemetry.trace" in begun.stderr
    assert not re.search(r"opentelemetry\.(sdk|exporter|proto)|prometheus_client", begun.stderr)


@pytest.mark.parametrize(
    ("name", "value"),
    [("CALLS_MCP_TELEMETRY", "otlp"), ("CALLS_MCP_METRICS_ADDRESS", "127.0.0.1:0")],
)
@pytest.mark.parametrize("missing", ["opentelemetry.sdk", "prometheus_client"])
def test_a_missing_telemetry_extra_is_reported_with_the_install_command(
    name: str,
    value: str,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "calls_mcp.observability.telemetry_export", raising=False)
    for module in (missing, *sys.modules):
        if module == missing or module.startswith(f"{missing}."):
            monkeypatch.setitem(sys.modules, module, None)
    assert main(["serve", "--sandbox"]) == 2
    told = capsys.readouterr().err
    assert "pip install '.[otel]'" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("CALLS_MCP_METRICS_ADDRESS", "192.0.2.1:9464")],
)
def test_an_unusable_telemetry_setting_is_reported_in_one_line(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLS_MCP_TELEMETRY", "otlp")
    monkeypatch.setenv(name, value)
    assert main(["serve", "--sandbox"]) == 2
    told = capsys.readouterr().err
    assert name in told
    assert told.count("\n") == 1


def test_the_metrics_address_can_be_ipv4_or_ipv6() -> None:
    for address in ("127.0.0.1:9464", "[::1]:9464", "localhost:0"):
        settings = load_settings({"calls_mcp_metrics_address": address})
        assert settings.telemetry.metrics_address == address


def parse(traceparent: str) -> tuple[str, str]:
    """Return the ids of the trace and the span."""
    match = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[13]", traceparent)
    assert match
    return match[1], match[2]
