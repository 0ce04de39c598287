"""Limits on requests, streams, headers, bodies and time, and their responses."""

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from tests.harness import ERAS, Era, User, placing
from tests.http.service import (
    LocalService,
    SlowService,
    by_tokens,
    open_service,
    principals,
    rest_of,
    slow_service,
)
from tests.plain_http import NO_CERTIFICATES

pytestmark = pytest.mark.anyio

LISTING: dict[str, object] = {"name": "list_calls", "arguments": {}}


@pytest.mark.parametrize("era", ERAS)
async def test_clients_of_all_revisions_can_ask_their_user(era: Era, service: LocalService) -> None:
    user = User()
    async with service.connect(era, user) as agent:
        assert (await agent.call("create_call", **placing()))["outcome"] == "done"
        assert len(user.asked) == 1
        assert (await agent.call("list_calls"))["count"] == 1


async def test_requests_per_minute_are_limited_by_principal(
    tmp_path: Path,
) -> None:
    file = principals(tmp_path / "p.toml", "ann", "bob")
    async with open_service(token="ann", **by_tokens(file, calls_mcp_http_rate=3)) as service:
        assert [(await service.ask("tools/list")).status_code for _ in range(3)] == [200] * 3
        await _refused(await service.ask("tools/list"))
        assert (await service.of("bob").ask("tools/list")).status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has 127.0.0.2")
async def test_without_tokens_requests_per_minute_are_limited_by_address() -> None:
    async with open_service(calls_mcp_http_rate=1) as service:
        statuses: list[int] = []
        for address in ("127.0.0.1", "127.0.0.1", "127.0.0.2"):
            transport = httpx.AsyncHTTPTransport(NO_CERTIFICATES, local_address=address)
            async with httpx.AsyncClient(transport=transport) as http:
                answer = await http.post(service.url, json={}, headers={"Accept": "*/*"})
                statuses.append(answer.status_code)
        assert statuses == [400, 429, 400]  # malformed requests count too


async def test_requests_per_minute_are_limited_in_total(tmp_path: Path) -> None:
    file = principals(tmp_path / "p.toml", "ann", "bob")
    async with open_service(
        token="ann", **by_tokens(file, calls_mcp_http_rate_in_all=2)
    ) as service:
        assert (await service.ask("tools/list")).status_code == 200
        assert (await service.of("bob").ask("tools/list")).status_code == 200
        await _refused(await service.of("bob").ask("tools/list"))


async def test_unauthenticated_requests_do_not_count_against_the_limit(tmp_path: Path) -> None:
    file = principals(tmp_path / "p.toml", "ann")
    async with open_service(
        token="ann", **by_tokens(file, calls_mcp_http_rate_in_all=1)
    ) as service:
        for _ in range(3):
            assert (await service.of("eve").ask("tools/list")).status_code == 401
        assert (await service.ask("tools/list")).status_code == 200


@pytest.mark.parametrize(
    "setting", ["calls_mcp_http_concurrency", "calls_mcp_http_concurrency_in_all"]
)
async def test_concurrent_requests_are_limited(setting: str) -> None:
    async with slow_service(**{setting: 1}) as service, _calling(service) as answer:
        await _refused(await service.ask("tools/list"))
        service.answered.set()
        assert (await answer()).status_code == 200
        assert (await service.ask("tools/list")).status_code == 200


async def test_health_checks_are_answered_at_the_request_limit() -> None:
    async with slow_service(calls_mcp_http_concurrency_in_all=1) as service, _calling(service):
        assert (await service.get("/healthz")).status_code == 200
        assert (await service.get("/readyz")).status_code == 200


async def test_streams_are_limited() -> None:
    async with open_service(calls_mcp_http_sessions=4) as service, service.http() as http:
        session = (await service.open_session()).headers["mcp-session-id"]
        headers = {"Mcp-Session-Id": session}
        async with http.stream("GET", service.url, headers=headers) as first:
            assert first.status_code == 200
            await _refused(await http.get(service.url, headers=headers))


async def test_a_slow_body_is_answered_with_408(impatient: LocalService) -> None:
    async with await impatient.connection() as connection:
        await connection.send(impatient.head("Content-Length: 100") + b"{")
        assert (await rest_of(connection)).startswith(b"HTTP/1.1 408 ")


async def test_every_request_on_a_connection_has_the_same_time_for_its_headers(
    impatient: LocalService,
) -> None:
    async with await impatient.connection() as connection:
        await connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await connection.receive()
        await connection.send(b"GET /heal")
        assert b"200 OK" not in await rest_of(connection)


async def test_a_slow_response_does_not_disconnect_the_client() -> None:
    async with slow_service(calls_mcp_http_patience=0.2) as service, _calling(service) as answer:
        async with await service.connection() as connection:
            assert await rest_of(connection) == b""  # CALLS_MCP_HTTP_PATIENCE has passed
        service.answered.set()
        assert (await answer()).status_code == 200


async def test_a_keep_alive_connection_can_idle_longer_than_headers_can_take(
    impatient: LocalService,
) -> None:
    async with impatient.http() as http:
        before = await http.get(impatient.root + "/healthz")
        async with await impatient.connection() as connection:
            assert await rest_of(connection) == b""
        after = await http.get(impatient.root + "/healthz")
        ports = {
            r.extensions["network_stream"].get_extra_info("client_addr") for r in (before, after)
        }
        assert len(ports) == 1


async def test_large_headers_are_rejected_even_if_they_never_end() -> None:
    async with open_service(calls_mcp_http_header_bytes=2048) as service:
        whole = await service.get("/mcp", {"X-Padding": "x" * 3000})
        assert whole.status_code == 431
        async with await service.connection() as connection:
            for _ in range(4):
                await connection.send(b"GET /mcp HTTP/1.1\r\nX: " + b"x" * 1000)
            assert (await rest_of(connection)).startswith(b"HTTP/1.1 400 ")  # from uvicorn


async def test_a_stateless_server_has_no_sessions_or_streams() -> None:
    async with open_service(calls_mcp_http_stateless=True) as service:
        for method in ("GET", "DELETE"):
            async with service.http() as http:
                refused = await http.request(method, service.url)
                assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
        opened = await service.open_session(elicitation={})
        assert opened.status_code == 200
        assert "mcp-session-id" not in opened.headers


@pytest.mark.parametrize("era", ERAS)
async def test_on_a_stateless_server_older_clients_confirm_by_token(era: Era) -> None:
    user = User()
    async with (
        open_service(calls_mcp_http_stateless=True) as service,
        service.connect(era, user) as agent,
    ):
        act = agent.confirm if era == "legacy" else agent.call
        assert (await act("create_call", **placing()))["outcome"] == "done"
    assert len(user.asked) == (era != "legacy")


@asynccontextmanager
async def _calling(service: SlowService) -> AsyncGenerator[Callable[[], Awaitable[httpx.Response]]]:
    """Start a tool call; yield a function that waits for its response."""
    answers: list[httpx.Response] = []
    done = anyio.Event()

    async def ask() -> None:
        answers.append(await service.ask("tools/call", **LISTING))
        done.set()

    async def answer() -> httpx.Response:
        await done.wait()
        return answers[0]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await service.asked.wait()
        yield answer
        service.answered.set()


async def _refused(response: httpx.Response) -> None:
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 1
    assert "Too many" in response.json()["error"]["message"]
