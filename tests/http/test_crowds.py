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

from tests.http.site import (
    LEGACY,
    Client2026,
    Here,
    Slow,
    by_tokens,
    in_session,
    open_site,
    principals,
    rest_of,
    slow_site,
)
from tests.rig import User, placing
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
    async with open_site(token="", **{setting: most}) as site:
        user = _Busy(site=site)
        async with site.connect("legacy", user) as agent:
            await agent.client.list_tools()  # what a result is held to
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"
        assert user.refused == 429  # a request would not have been


async def test_beyond_so_many_connections_health_alone_is_told() -> None:
    limits = {"calls_mcp_http_concurrency_in_all": 1, "calls_mcp_http_sessions": 4}
    async with open_site(token="", **limits) as site, AsyncExitStack() as held:
        for _ in range(SPARE + 5):
            await held.enter_async_context(await site.connection())
        busy = await site.ask("tools/list")
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
        assert (await site.get("/healthz")).status_code == 200
        assert (await site.get("/readyz")).status_code == 200
        await held.aclose()
        while (await site.ask("tools/list")).status_code == 503:
            pass


async def test_a_client_that_does_not_read_is_let_go() -> None:
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
    async with open_site(calls_mcp_http_patience=0.2, calls_mcp_http_rate=100_000) as site:
        session = (await site.open_session()).headers["mcp-session-id"]
        told = (f"Mcp-Session-Id: {session}", f"MCP-Protocol-Version: {LEGACY}")
        head = site.head(f"Content-Length: {len(raw)}", *told)
        async with await site.connection() as connection:
            with suppress(anyio.BrokenResourceError):
                while True:
                    await connection.send((head + raw) * 100)


async def test_the_sessions_that_count_are_those_that_are_open(tokens: dict[str, Any]) -> None:
    async with open_site(token="ann", calls_mcp_http_sessions=8, **tokens) as site:
        first, second = [await site.open_session() for _ in range(2)]
        assert (first.status_code, second.status_code) == (200, 200)
        refused = await site.open_session()
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
        async with site.http() as http:
            closed = await http.delete(site.url, headers=in_session(first))
        assert closed.status_code == 200
        assert (await site.open_session()).status_code == 200
        assert (await site.open_session()).status_code == 429
        assert (await site.of("bob").open_session()).status_code == 200


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
    async with open_site(token="ann", **by_tokens(file)) as site, site.http() as http:
        session = in_session(await site.open_session())
        async with http.stream("GET", site.url, headers=session) as stream:
            assert stream.status_code == 200
            if end == "is revoked":
                file.write_text("", "utf-8")
            async for _ in stream.aiter_lines():
                pass
        assert (await site.ask("tools/list")).status_code == 401


async def test_what_is_beside_the_endpoint_is_not_found_by_anybody(
    tokens: dict[str, Any],
) -> None:
    async with open_site(token="", **tokens) as site:
        for path in ("/", "/mcp/", "/mcp/x", "/.well-known/oauth-protected-resource"):
            assert (await site.get(path)).status_code == 404


async def test_what_is_refused_is_told_with_whose_it_was(
    tokens: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "calls_mcp")
    with recording() as seen:
        async with open_site(token="ann", calls_mcp_http_rate=1, **tokens) as site:
            for whose in ("ann", "ann", "eve"):
                await site.of(whose).ask("tools/list")
        refusals = seen.measured("calls_mcp.http.refusals")
    assert refusals == {("401",): 1, ("429",): 1}
    told = [vars(record)["fields"] for record in caplog.records if "HTTP" in record.message]
    assert told == [{"status": 429, "principal": "ann"}, {"status": 401}]


async def test_a_request_that_was_answered_early_is_not_waited_for_for_ever(
    impatient: Here,
) -> None:
    async with await impatient.connection() as connection:
        await connection.send(b"POST /mcp HTTP/1.1\r\nHost: e\r\nContent-Length: 9\r\n\r\n")
        assert (await connection.receive()).startswith(b"HTTP/1.1 421 ")
        await connection.send(b"{")
        assert await rest_of(connection) == b""


async def test_a_connection_goes_on_after_a_request_that_was_answered_early(
    tokens: dict[str, Any],
) -> None:
    async with open_site(token="ann", **tokens) as site, await site.connection() as connection:
        for word in (b"{", b"}"):
            await connection.send(site.head("Content-Length: 2") + word)
            assert (await connection.receive()).startswith(b"HTTP/1.1 401 ")
            await connection.send(word)


async def test_changes_that_stall_keep_out_no_reads() -> None:
    async with slow_site(calls_mcp_http_concurrency=1) as site, anyio.create_task_group() as tasks:
        tasks.start_soon(_place, site)
        await site.asked.wait()
        arguments = placing()
        more = await site.ask("tools/call", name="create_call", arguments=arguments)
        assert more.status_code == 429
        assert "Too many changes at once: nothing was done" in more.json()["error"]["message"]
        assert (await site.ask("tools/list")).status_code == 200
        site.answered.set()


async def test_a_request_with_the_id_of_one_under_way_is_refused_and_leaves_that_alone() -> None:
    async with slow_site() as site, anyio.create_task_group() as tasks:
        session = in_session(await site.open_session())
        call: dict[str, object] = {"name": "list_calls", "arguments": {}}
        twice: dict[str, object] = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
        twice["params"] = call
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append((await site.post(twice, session)).status_code)

        tasks.start_soon(ask)
        await site.asked.wait()
        assert (await site.post(twice, session)).status_code == 400
        site.answered.set()
        while not statuses:
            await anyio.lowlevel.checkpoint()
        assert (await site.post(twice, session)).status_code == 200
        assert statuses == [200]


async def test_requests_at_once_are_bounded_however_slowly_they_are_counted(
    own_redis: RedisServer,
) -> None:
    settings = {"calls_mcp_state_url": own_redis.url, "calls_mcp_http_concurrency": 2}
    async with slow_site(**settings) as site, anyio.create_task_group() as tasks:
        statuses: list[int] = []

        async def ask() -> None:
            asked = await site.ask("tools/call", name="list_calls", arguments={})
            statuses.append(asked.status_code)

        for _ in range(8):
            tasks.start_soon(ask)
        while len(statuses) < 6:
            await anyio.lowlevel.checkpoint()
        assert statuses == [429] * 6
        site.answered.set()


async def test_an_event_that_nobody_keeps_can_be_asked_for(site: Here) -> None:
    async with site.http() as http:
        session = in_session(await site.open_session()) | {"Last-Event-ID": "7"}
        async with http.stream("GET", site.url, headers=session) as stream:
            assert stream.status_code == 200


async def test_names_that_differ_in_case_are_the_same(site: Here) -> None:
    host = site.url.split("/")[2].replace("127.0.0.1", "LOCALHOST")
    told = {"Host": host, "Origin": f"HTTP://{host}", "Content-Type": "Application/JSON"}
    raw = Client2026()
    listed = await site.post(raw.body("tools/list"), raw.headers("tools/list") | told)
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
    body: bytes, headers: dict[str, str], status: int, site: Here
) -> None:
    refused = await site.post(body, headers)
    assert refused.status_code == status
    assert refused.json()["jsonrpc"] == "2.0"
    assert len(refused.json()["error"]["message"]) > 20


async def test_a_clients_name_that_can_not_be_written_down_keeps_nothing_out(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    async with open_site(calls_mcp_state_url=url) as site:
        raw = Client2026()
        body = raw.body("tools/call", name="create_call", arguments=placing())
        text = json.dumps(body).replace('"raw"', r'"\ud800"')
        answer = await site.post(text.encode(), raw.headers("tools/call", "create_call"))
        assert answer.json()["result"]["structuredContent"]["outcome"] == "confirmation_required"


async def test_a_state_that_does_not_hold_says_what_to_do(site: Here) -> None:
    asked = await site.ask("tools/call", name="list_calls", arguments={}, requestState="x")
    assert "call again without requestState" in asked.json()["error"]["message"]


async def _place(site: Slow) -> None:
    placed = await site.ask("tools/call", name="create_call", arguments=placing())
    assert placed.status_code == 200


@dataclass
class _Busy(User):
    """Somebody who says yes after another request was refused."""

    site: Here = field(kw_only=True)
    refused: int = 0

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        arguments = placing()
        while self.refused != 429:
            again = await self.site.ask("tools/call", name="create_call", arguments=arguments)
            self.refused = again.status_code
        return await super().__call__(context, params)
