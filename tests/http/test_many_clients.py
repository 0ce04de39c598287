"""What one client takes, slowly or in numbers, keeps nobody else out."""

import json
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
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
    open_service,
    principals,
    rest_of,
    slow_service,
)
from tests.storage.redis_server import RedisServer
from tests.telemetry import recording

pytestmark = pytest.mark.anyio

SPARE = 100  # connections beside those of requests and sessions


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, Any]:
    """Settings that let ann and bob in."""
    return by_tokens(principals(tmp_path / "principals.toml", "ann", "bob"))


@pytest.mark.parametrize("setting", ["calls_mcp_http_concurrency", "calls_mcp_http_rate"])
async def test_an_answer_is_let_in_however_many_requests_wait_for_one(setting: str) -> None:
    most = {"calls_mcp_http_concurrency": 1, "calls_mcp_http_rate": 4}[setting]
    async with open_service(token="", **{setting: most}) as service:
        user = _Busy(service=service)
        async with service.connect("legacy", user) as agent:
            await agent.client.list_tools()  # what a result is held to
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"
        assert user.refused == 429  # a request would not have been


async def test_beyond_so_many_connections_health_alone_is_told() -> None:
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


async def test_a_client_that_does_not_read_is_let_go() -> None:
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
    async with open_service(calls_mcp_http_patience=0.2, calls_mcp_http_rate=100_000) as service:
        session = (await service.open_session()).headers["mcp-session-id"]
        told = (f"Mcp-Session-Id: {session}", f"MCP-Protocol-Version: {LEGACY}")
        head = service.head(f"Content-Length: {len(raw)}", *told)
        async with await service.connection() as connection:
            with suppress(anyio.BrokenResourceError):
                while True:
                    await connection.send((head + raw) * 100)


async def test_the_sessions_that_count_are_those_that_are_open(tokens: dict[str, Any]) -> None:
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


async def test_what_is_beside_the_endpoint_is_not_found_by_anybody(
    tokens: dict[str, Any],
) -> None:
    async with open_service(token="", **tokens) as service:
        for path in ("/", "/mcp/", "/mcp/x", "/.well-known/oauth-protected-resource"):
            assert (await service.get(path)).status_code == 404


async def test_what_is_refused_is_told_with_whose_it_was(
    tokens: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "calls_mcp")
    with recording() as seen:
        async with open_service(token="ann", calls_mcp_http_rate=1, **tokens) as service:
            for whose in ("ann", "ann", "eve"):
                await service.of(whose).ask("tools/list")
        refusals = seen.measured("calls_mcp.http.refusals")
    assert refusals == {("401",): 1, ("429",): 1}
    told = [vars(record)["fields"] for record in caplog.records if "HTTP" in record.message]
    assert told == [{"status": 429, "principal": "ann"}, {"status": 401}]


async def test_a_request_that_was_answered_early_is_not_waited_for_for_ever(
    impatient: LocalService,
) -> None:
    async with await impatient.connection() as connection:
        await connection.send(b"POST /mcp HTTP/1.1\r\nHost: e\r\nContent-Length: 9\r\n\r\n")
        assert (await connection.receive()).startswith(b"HTTP/1.1 421 ")
        await connection.send(b"{")
        assert await rest_of(connection) == b""


async def test_a_connection_goes_on_after_a_request_that_was_answered_early(
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


async def test_changes_that_stall_keep_out_no_reads() -> None:
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


async def test_a_request_with_the_id_of_one_under_way_is_refused_and_leaves_that_alone() -> None:
    async with slow_service() as service, anyio.create_task_group() as tasks:
        session = in_session(await service.open_session())
        call: dict[str, object] = {"name": "list_calls", "arguments": {}}
        twice: dict[str, object] = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
        twice["params"] = call
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append((await service.post(twice, session)).status_code)

        tasks.start_soon(ask)
        await service.asked.wait()
        assert (await service.post(twice, session)).status_code == 400
        service.answered.set()
        while not statuses:
            await anyio.lowlevel.checkpoint()
        assert (await service.post(twice, session)).status_code == 200
        assert statuses == [200]


async def test_requests_at_once_are_bounded_however_slowly_they_are_counted(
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
        while len(statuses) < 6:
            await anyio.lowlevel.checkpoint()
        assert statuses == [429] * 6
        service.answered.set()


async def test_an_event_that_nobody_keeps_can_be_asked_for(service: LocalService) -> None:
    async with service.http() as http:
        session = in_session(await service.open_session()) | {"Last-Event-ID": "7"}
        async with http.stream("GET", service.url, headers=session) as stream:
            assert stream.status_code == 200


async def test_names_that_differ_in_case_are_the_same(service: LocalService) -> None:
    host = service.url.split("/")[2].replace("127.0.0.1", "LOCALHOST")
    told = {"Host": host, "Origin": f"HTTP://{host}", "Content-Type": "Application/JSON"}
    raw = Client2026()
    listed = await service.post(raw.body("tools/list"), raw.headers("tools/list") | told)
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
async def test_a_refusal_is_worded_as_clients_show_it(
    body: bytes, headers: dict[str, str], status: int, service: LocalService
) -> None:
    refused = await service.post(body, headers)
    assert refused.status_code == status
    assert refused.json()["jsonrpc"] == "2.0"
    assert len(refused.json()["error"]["message"]) > 20


async def test_a_clients_name_that_can_not_be_written_down_keeps_nothing_out(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    async with open_service(calls_mcp_state_url=url) as service:
        raw = Client2026()
        body = raw.body("tools/call", name="create_call", arguments=placing())
        text = json.dumps(body).replace('"raw"', r'"\ud800"')
        answer = await service.post(text.encode(), raw.headers("tools/call", "create_call"))
        assert answer.json()["result"]["structuredContent"]["outcome"] == "confirmation_required"


async def test_a_state_that_does_not_hold_says_what_to_do(service: LocalService) -> None:
    asked = await service.ask("tools/call", name="list_calls", arguments={}, requestState="x")
    assert "call again without requestState" in asked.json()["error"]["message"]


async def _place(service: SlowService) -> None:
    placed = await service.ask("tools/call", name="create_call", arguments=placing())
    assert placed.status_code == 200


@dataclass
class _Busy(User):
    """Somebody who says yes after another request was refused."""

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
