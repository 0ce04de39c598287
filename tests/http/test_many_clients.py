"""One client's slow or numerous requests do not block others."""

import json
import logging
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import ClientRequestContext
from mcp_types import ElicitRequestParams, ElicitResult

from tests.harness import User, placing
from tests.http.service import (
    LEGACY,
    Client2026,
    LocalService,
    SlowService,
    by_tokens,
    in_session,
    initialize,
    message,
    open_service,
    principals,
    rest_of,
    slow_service,
)
from tests.storage.redis_server import RedisServer
from tests.telemetry import recording
from tests.until import until

pytestmark = pytest.mark.anyio

SPARE = 100  # connections in addition to those of requests and sessions


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, Any]:
    """Settings with tokens for ann and bob."""
    return by_tokens(principals(tmp_path / "principals.toml", "ann", "bob"))


@pytest.mark.parametrize("setting", ["calls_mcp_http_concurrency", "calls_mcp_http_rate"])
async def test_a_users_answer_is_accepted_at_the_request_limit(setting: str) -> None:
    most = {"calls_mcp_http_concurrency": 1, "calls_mcp_http_rate": 4}[setting]
    async with open_service(token="", **{setting: most}) as service:
        user = _Busy(service=service)
        async with service.connect("legacy", user) as agent:
            await agent.client.list_tools()  # otherwise the client lists them after the call
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"
        assert user.refused == 429  # the limit was reached


async def test_with_too_many_connections_only_health_checks_are_answered() -> None:
    limits = {"calls_mcp_http_concurrency_in_all": 1, "calls_mcp_http_sessions": 4}
    async with open_service(token="", **limits) as service, AsyncExitStack() as held:
        for _ in range(SPARE + 5):
            await held.enter_async_context(await service.connection())
        busy = await service.ask("tools/list")
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
        assert (await service.get("/healthz")).status_code == 200
        assert (await service.get("/readyz")).status_code == 200
        await held.aclose()
        while (await service.ask("tools/list")).status_code == 503:
            pass


async def test_a_client_that_does_not_read_is_disconnected() -> None:
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
    async with open_service(calls_mcp_http_patience=0.2, calls_mcp_http_rate=100_000) as service:
        session = (await service.open_session()).headers["mcp-session-id"]
        lines = (f"Mcp-Session-Id: {session}", f"MCP-Protocol-Version: {LEGACY}")
        head = service.head(f"Content-Length: {len(raw)}", *lines)
        async with await service.connection() as connection:
            with suppress(anyio.BrokenResourceError):
                while True:
                    await connection.send((head + raw) * 100)


async def test_only_open_sessions_count_against_the_session_limit(tokens: dict[str, Any]) -> None:
    async with open_service(token="ann", calls_mcp_http_sessions=8, **tokens) as service:
        first, second = [await service.open_session() for _ in range(2)]
        assert (first.status_code, second.status_code) == (200, 200)
        refused = await service.open_session()
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
        async with service.http() as http:
            closed = await http.delete(service.url, headers=in_session(first))
        assert closed.status_code == 200
        assert (await service.open_session()).status_code == 200
        assert (await service.open_session()).status_code == 429
        assert (await service.of("bob").open_session()).status_code == 200


@pytest.mark.parametrize("end", ["expires", "is revoked"])
async def test_a_stream_ends_when_its_token_does(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calls_mcp.http.authentication._CHECK_EVERY", 0.05)
    file = principals(tmp_path / "principals.toml", "ann")
    if end == "expires":
        soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        before, _, _ = file.read_text("utf-8").rpartition("expires = ")
        file.write_text(f"{before}expires = {soon}\n", "utf-8")
    async with open_service(token="ann", **by_tokens(file)) as service, service.http() as http:
        session = in_session(await service.open_session())
        async with http.stream("GET", service.url, headers=session) as stream:
            assert stream.status_code == 200
            if end == "is revoked":
                file.write_text("", "utf-8")
            async for _ in stream.aiter_lines():
                pass
        assert (await service.ask("tools/list")).status_code == 401


@pytest.mark.parametrize(
    "params",
    [None, {}, {"protocolVersion": "2025-11-25"}, {"protocolVersion": 1, "capabilities": []}],
)
async def test_a_refused_initialize_opens_no_session(
    params: object, tokens: dict[str, Any]
) -> None:
    async with open_service(token="ann", calls_mcp_http_sessions=4, **tokens) as service:
        body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        refused = [await service.post(body) for _ in range(6)]
        assert {response.status_code for response in refused} == {400}
        assert (await service.open_session()).status_code == 200


class _LogWaiter(logging.Handler):
    """Waits until a text is logged."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.logged = anyio.Event()
        self._text = text

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.logged.set()


async def test_an_unused_session_is_closed(
    tokens: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "mcp")
    waiter = _LogWaiter("idle timeout")
    monkeypatch.setattr(logging.getLogger("mcp"), "handlers", [waiter])
    async with open_service(token="ann", calls_mcp_http_session_idle=1, **tokens) as service:
        session = in_session(await service.open_session())
        with anyio.fail_after(20):
            await waiter.logged.wait()
        assert (await service.post(message("tools/list"), session)).status_code == 404


async def test_a_path_with_a_slash_at_its_end_is_served(tokens: dict[str, Any]) -> None:
    async with open_service(token="ann", **tokens) as service:
        service.url += "/"
        assert (await service.ask("tools/list")).status_code == 200
        assert (await service.open_session()).status_code == 200


PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,mcp-protocol-version,mcp-method",
}


async def test_pages_of_listed_origins_can_use_the_server(tokens: dict[str, Any]) -> None:
    origin = "https://app.example.com"
    settings = {"calls_mcp_browser_origins": f"http://localhost:6274 {origin}"}
    async with open_service(token="ann", **settings, **tokens) as service:
        async with service.http() as http:
            preflight = await http.options(service.url, headers={"Origin": origin} | PREFLIGHT)
            headers = {"Origin": "https://evil.com"} | PREFLIGHT
            refused = await http.options(service.url, headers=headers)
        opened = await service.post(initialize(), {"Origin": origin})
        other = await service.post(initialize(), {"Origin": "https://evil.com"})
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Origin" not in refused.headers
    assert opened.headers["Access-Control-Allow-Origin"] == origin
    assert "Mcp-Session-Id" in opened.headers["Access-Control-Expose-Headers"]
    assert other.status_code == 403
    assert "Access-Control-Allow-Origin" not in other.headers


async def test_pages_of_no_origin_can_use_the_server_by_default(tokens: dict[str, Any]) -> None:
    async with open_service(token="ann", **tokens) as service, service.http() as http:
        headers = {"Origin": "https://app.example.com"}
        preflight = await http.options(service.url, headers=headers | PREFLIGHT)
        refused = await service.post(initialize(), headers)
    assert preflight.status_code == 403
    assert refused.status_code == 403
    assert not [name for name in preflight.headers if name.startswith("access-control")]


async def test_other_paths_return_404_without_a_token(
    tokens: dict[str, Any],
) -> None:
    async with open_service(token="", **tokens) as service:
        for path in ("/", "/mcp/x", "/.well-known/oauth-protected-resource"):
            assert (await service.get(path)).status_code == 404


async def test_rejected_requests_are_counted_and_logged_with_their_principal(
    tokens: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "calls_mcp")
    with recording() as seen:
        async with open_service(token="ann", calls_mcp_http_rate=1, **tokens) as service:
            for whose in ("ann", "ann", "eve"):
                await service.of(whose).ask("tools/list")
        refusals = seen.measured("calls_mcp.http.refusals")
    assert refusals == {("401",): 1, ("429",): 1}
    logged = [vars(record)["fields"] for record in caplog.records if "HTTP" in record.message]
    assert logged == [{"status": 429, "principal": "ann"}, {"status": 401}]


async def test_an_unfinished_request_that_was_rejected_is_disconnected(
    impatient: LocalService,
) -> None:
    async with await impatient.connection() as connection:
        await connection.send(b"POST /mcp HTTP/1.1\r\nHost: e\r\nContent-Length: 9\r\n\r\n")
        assert (await connection.receive()).startswith(b"HTTP/1.1 421 ")
        await connection.send(b"{")
        assert await rest_of(connection) == b""


async def test_a_connection_is_reused_after_an_early_response(
    tokens: dict[str, Any],
) -> None:
    async with (
        open_service(token="ann", **tokens) as service,
        await service.connection() as connection,
    ):
        for word in (b"{", b"}"):
            await connection.send(service.head("Content-Length: 2") + word)
            assert (await connection.receive()).startswith(b"HTTP/1.1 401 ")
            await connection.send(word)


async def test_stalled_changes_do_not_block_reads() -> None:
    async with (
        slow_service(calls_mcp_http_concurrency=1) as service,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_place, service)
        await service.asked.wait()
        arguments = placing()
        more = await service.ask("tools/call", name="create_call", arguments=arguments)
        assert more.status_code == 429
        assert "Too many concurrent changes; nothing was done" in more.json()["error"]["message"]
        assert (await service.ask("tools/list")).status_code == 200
        service.answered.set()


@pytest.mark.parametrize("again", [7, "7"])
async def test_a_request_that_reuses_the_id_of_one_in_progress_is_rejected(
    again: int | str,
) -> None:
    async with slow_service() as service, anyio.create_task_group() as tasks:
        session = in_session(await service.open_session())
        call: dict[str, object] = {"name": "list_calls", "arguments": {}}
        twice: dict[str, object] = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
        twice["params"] = call
        other = twice | {"id": again}
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append((await service.post(twice, session)).status_code)

        tasks.start_soon(ask)
        await service.asked.wait()
        assert (await service.post(other, session)).status_code == 400
        service.answered.set()
        await until(lambda: statuses)
        assert (await service.post(other, session)).status_code == 200
        assert statuses == [200]


async def test_concurrent_requests_are_limited_even_if_redis_is_slow(
    own_redis: RedisServer,
) -> None:
    settings = {"calls_mcp_state_url": own_redis.url, "calls_mcp_http_concurrency": 2}
    async with slow_service(**settings) as service, anyio.create_task_group() as tasks:
        statuses: list[int] = []

        async def ask() -> None:
            asked = await service.ask("tools/call", name="list_calls", arguments={})
            statuses.append(asked.status_code)

        for _ in range(8):
            tasks.start_soon(ask)
        await until(lambda: len(statuses) >= 6)
        assert statuses == [429] * 6
        service.answered.set()


async def test_last_event_id_is_ignored(service: LocalService) -> None:
    async with service.http() as http:
        session = in_session(await service.open_session()) | {"Last-Event-ID": "7"}
        async with http.stream("GET", service.url, headers=session) as stream:
            assert stream.status_code == 200


async def test_host_origin_and_content_type_ignore_case(service: LocalService) -> None:
    host = service.url.split("/")[2].replace("127.0.0.1", "LOCALHOST")
    headers = {"Host": host, "Origin": f"HTTP://{host}", "Content-Type": "Application/JSON"}
    raw = Client2026()
    listed = await service.post(raw.body("tools/list"), raw.headers("tools/list") | headers)
    assert listed.status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ('{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16"), {}, 400),
        (b"x" * 70_000, {}, 413),
        (b"{}", {"Content-Type": "text/plain"}, 400),
        (b"{}", {"Host": "evil.example"}, 421),
        (b"{}", {"Origin": "http://evil.example"}, 403),
    ],
)
async def test_a_rejection_is_a_json_rpc_error_with_a_message(
    body: bytes, headers: dict[str, str], status: int, service: LocalService
) -> None:
    refused = await service.post(body, headers)
    assert refused.status_code == status
    assert refused.json()["jsonrpc"] == "2.0"
    assert len(refused.json()["error"]["message"]) > 20


async def test_a_client_name_with_a_lone_surrogate_is_accepted(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    async with open_service(calls_mcp_state_url=url) as service:
        raw = Client2026()
        body = raw.body("tools/call", name="create_call", arguments=placing())
        text = json.dumps(body).replace('"raw"', r'"\ud800"')
        answer = await service.post(text.encode(), raw.headers("tools/call", "create_call"))
        assert answer.json()["result"]["structuredContent"]["outcome"] == "confirmation_required"


async def test_a_wrong_request_state_is_rejected_with_a_hint(service: LocalService) -> None:
    asked = await service.ask("tools/call", name="list_calls", arguments={}, requestState="x")
    assert "Try again without requestState" in asked.json()["error"]["message"]


async def _place(service: SlowService) -> None:
    placed = await service.ask("tools/call", name="create_call", arguments=placing())
    assert placed.status_code == 200


@dataclass
class _Busy(User):
    """A user who accepts after another request was rejected."""

    service: LocalService = field(kw_only=True)
    refused: int = 0

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        arguments = placing()
        while self.refused != 429:
            again = await self.service.ask("tools/call", name="create_call", arguments=arguments)
            self.refused = again.status_code
        return await super().__call__(context, params)
