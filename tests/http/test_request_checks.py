"""Which HTTP requests are rejected before they reach the MCP server."""

from collections.abc import AsyncGenerator, Mapping
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from calls_mcp.cli.main import main
from calls_mcp.http.serving import ListenAddress, open_server
from tests.harness import open_harness, placing
from tests.http.service import (
    LEGACY,
    YES,
    Client2026,
    LocalService,
    Service,
    by_tokens,
    in_session,
    message,
    open_service,
    principals,
    rest_of,
    stubbed_service,
)
from tests.upstream import SID, Exchange, answer, call

pytestmark = pytest.mark.anyio

FORMS: dict[str, object] = {"elicitation": {"form": {}}}
LIST = Client2026().body("tools/list")
LIST_HEADERS = Client2026().headers("tools/list")


@pytest.mark.requirement("22")
@pytest.mark.parametrize(
    ("host", "variables", "named"),
    [
        ("0.0.0.0", {}, "CALLS_MCP_AUTH"),  # noqa: S104
        ("::", {}, "CALLS_MCP_AUTH"),
        ("192.0.2.1", {}, "CALLS_MCP_AUTH"),
        ("calls.example", {}, "CALLS_MCP_AUTH"),
        ("0.0.0.0", {"CALLS_MCP_ALLOWED_HOSTS": "mcp.example.com"}, "CALLS_MCP_AUTH"),  # noqa: S104
        ("127.0.0.1", {"CALLS_MCP_ALLOWED_HOSTS": "mcp.example.com"}, "CALLS_MCP_AUTH"),
        ("0.0.0.0", {"CALLS_MCP_AUTH": "tokens"}, "CALLS_MCP_ALLOWED_HOSTS"),  # noqa: S104
    ],
)
def test_an_unprotected_server_does_not_start(
    host: str,
    variables: Mapping[str, str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if "CALLS_MCP_AUTH" in variables:
        file = principals(tmp_path / "p.toml", "ann")
        monkeypatch.setenv("CALLS_MCP_PRINCIPALS", str(file))
    command = ["serve", "--sandbox", "--transport", "http", "--port", "0", "--host", host]
    assert main(command) == 2
    assert named in capsys.readouterr().err


@pytest.mark.requirement("22")
async def test_a_protected_server_listens_everywhere_and_checks_hosts(
    tmp_path: Path,
) -> None:
    file = principals(tmp_path / "p.toml", "ann")
    given = by_tokens(file, calls_mcp_allowed_hosts="mcp.example.com")
    everywhere = ListenAddress("0.0.0.0", 0)  # noqa: S104
    async with (
        open_harness(sandbox=False, **given) as harness,
        open_server(harness.server, harness.runtime, everywhere) as server,
    ):
        service = Service(f"http://127.0.0.1:{server.address.port}/mcp", "ann")
        refused = await service.ask("tools/list")
        named = await service.post(LIST, LIST_HEADERS | {"Host": "mcp.example.com"})
        assert (refused.status_code, named.status_code) == (421, 200)


@pytest.mark.requirement("24")
async def test_a_foreign_origin_is_rejected_before_authentication(tmp_path: Path) -> None:
    file = principals(tmp_path / "p.toml", "ann")
    origins = ("http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1.evil:1", "x")
    settings: dict[str, object] = {"calls_mcp_auth": "tokens", "calls_mcp_principals": file}
    async with open_service(token="", **settings) as service, service.http() as http:
        methods = ("POST", "GET", "DELETE")
        for origin, headers, method in product(origins, (LIST_HEADERS, {}), methods):
            given = headers | {"Origin": origin}
            response = await http.request(method, service.url, json=LIST, headers=given)
            assert response.status_code == 403


@pytest.mark.requirement("24")
async def test_a_rebound_host_is_rejected(service: LocalService) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1", "localhost:1"):
        response = await service.post(LIST, LIST_HEADERS | {"Host": host})
        assert response.status_code == 421


@pytest.mark.requirement("24", "25")
async def test_no_response_grants_access_to_another_origin(
    service: LocalService,
) -> None:
    async with service.http() as http:
        asked = {
            "Origin": service.root,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, mcp-protocol-version",
        }
        preflight = await http.request("OPTIONS", service.url, headers=asked)
        granted = await service.post(LIST, LIST_HEADERS | {"Origin": service.root})
        assert (preflight.status_code, granted.status_code) == (405, 200)
        for response in (preflight, granted, await service.get("/healthz")):
            assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.requirement("25")
async def test_a_content_type_that_a_form_can_send_is_rejected(service: LocalService) -> None:
    kinds = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
    for kind, headers in product((*kinds, ""), (LIST_HEADERS, {})):
        response = await service.post(LIST, headers | {"Content-Type": kind})
        assert response.status_code == 400


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/json ;charset=utf-8", 200),
        ("application/jsonX", 400),
        ("application/json-patch+json", 400),
        ("application/json, text/plain", 400),
    ],
)
async def test_only_the_media_type_of_json_is_accepted(
    service: LocalService, kind: str, status: int
) -> None:
    response = await service.post(LIST, LIST_HEADERS | {"Content-Type": kind})
    assert response.status_code == status


@pytest.mark.parametrize("accepted", ["", "application/json", "text/event-stream", "text/html"])
async def test_a_request_that_does_not_accept_both_kinds_of_response_is_rejected(
    service: LocalService, accepted: str
) -> None:
    for headers in (LIST_HEADERS, {}):
        response = await service.post(LIST, headers | {"Accept": accepted})
        assert response.status_code == 406
        reason = response.json()["error"]["message"]
        assert reason == "Accept must list application/json and text/event-stream"


@pytest.mark.requirement("26")
async def test_headers_that_contradict_the_body_are_rejected() -> None:
    raw = Client2026()
    body = raw.body("tools/call", name="create_call", arguments=placing())
    right = raw.headers("tools/call", "create_call")
    wrong = (
        *({"Mcp-Method": method} for method in ("tools/list", "")),
        *({"Mcp-Name": name} for name in ("list_calls", "CREATE_CALL", "")),
        {"MCP-Protocol-Version": "2027-01-01"},
    )
    async with open_service(calls_mcp_confirm="none") as service:
        for header in wrong:
            response = await service.post(body, right | header)
            assert response.status_code == 400
            assert response.json()["error"]["code"] in (-32020, -32022)
        assert service.harness.emulator.requests == ()
        assert (await service.post(body, right)).json()["result"]["structuredContent"]
        assert len(service.harness.changes) == 1


@pytest.mark.requirement("26")
async def test_a_repeated_mcp_header_is_rejected(service: LocalService) -> None:
    async with service.http() as http:
        twice = [*LIST_HEADERS.items(), ("Mcp-Method", "tools/list")]
        response = await http.post(service.url, json=LIST, headers=twice)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == -32020


@pytest.mark.requirement("27")
async def test_session_ids_are_random_and_end_with_delete(service: LocalService) -> None:
    async with service.http() as http:
        opened = [await service.open_session() for _ in range(3)]
        sessions = [response.headers["mcp-session-id"] for response in opened]
        assert len({*sessions}) == 3
        assert all(len(session) == 32 for session in sessions)
        headers = {"Mcp-Session-Id": sessions[0], "MCP-Protocol-Version": LEGACY}
        assert (await _legacy_list(service, headers)).status_code == 200
        assert (await http.delete(service.url, headers=headers)).status_code == 200
        assert (await _legacy_list(service, headers)).status_code == 404
        made_up = headers | {"Mcp-Session-Id": "0" * 32}
        assert (await _legacy_list(service, made_up)).status_code == 404


@pytest.mark.requirement("27")
async def test_clients_of_the_newest_revision_have_no_session(service: LocalService) -> None:
    session = (await service.open_session()).headers["mcp-session-id"]
    response = await service.post(LIST, LIST_HEADERS | {"Mcp-Session-Id": session})
    other = await service.post(LIST, LIST_HEADERS | {"Mcp-Session-Id": "0" * 32})
    for each in (response, other):
        assert each.status_code == 200
        assert "mcp-session-id" not in each.headers


@pytest.mark.requirement("28")
async def test_a_change_is_not_sent_if_its_client_disconnects_first() -> None:
    looked, gone = anyio.Event(), anyio.Event()
    looks = 0

    async def answer_once(exchange: Exchange) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            await answer(200, call(status="in-progress"))(exchange)
            return
        looked.set()
        await exchange.reader.read()  # until the server disconnects
        gone.set()

    ending = {"sid": SID, "status": "completed"}
    async with stubbed_service(answer_once) as service:
        asked = await service.tool("update_call", ending)
        answered = {"requestState": asked["requestState"], "inputResponses": YES}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: service.tool("update_call", ending, **answered))
            await looked.wait()
            tasks.cancel_scope.cancel()
        await gone.wait()
        again = await service.tool("update_call", ending, **answered)
        assert again["structuredContent"]["outcome"] == "expired"
        assert service.upstream.changes == []


@pytest.mark.requirement("28")
async def test_ending_a_session_declines_its_open_question(service: LocalService) -> None:
    async with service.http() as http:
        headers = in_session(await service.open_session(**FORMS))
        body = message("tools/call", name="create_call", arguments=placing())
        async with http.stream("POST", service.url, content=body, headers=headers) as stream:
            async for line in stream.aiter_lines():
                if "elicitation/create" in line:
                    break
            assert (await http.delete(service.url, headers=headers)).status_code == 200
        yes = {"action": "accept", "content": {"approve": True}}
        late = {"jsonrpc": "2.0", "id": 1, "result": yes}
        assert (await service.post(late, headers)).status_code == 404
        assert service.harness.changes == []


DEEP = [b"[" * depth + b"]" * depth for depth in (33, 250, 30_000)]
BROKEN = [
    b"",
    b"{",
    b"nonsense",
    b"\xff\xfe\x00",
    b"[]",
    b"null",
    b"1",
    b'"text"',
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b"1" * 60_000,
    b'{"jsonrpc":"2.0","id":{},"method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":1,"method":7}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}',
    b'{"jsonrpc":"2.0","id":1e999,"method":"tools/list"}',
    b'[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]',
    b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}',
    *DEEP,
]


@pytest.mark.requirement("29")
@pytest.mark.parametrize("headers", [LIST_HEADERS, {}], ids=["modern", "legacy"])
async def test_a_malformed_body_is_answered_with_a_4xx(
    headers: dict[str, str], service: LocalService
) -> None:
    for body in BROKEN:
        response = await service.post(body, headers)
        assert 400 <= response.status_code < 500, (body[:50], response.text)
    assert (await service.ask("tools/list")).status_code == 200


@pytest.mark.requirement("29")
@pytest.mark.parametrize("headers", [LIST_HEADERS, {}], ids=["modern", "legacy"])
@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'{"jsonrpc":"2.0","id":1,"method":7}'])
async def test_json_that_is_not_json_rpc_is_rejected_in_one_sentence(
    body: bytes, headers: dict[str, str], service: LocalService
) -> None:
    response = await service.post(body, headers)
    error = {"code": -32600, "message": "The body is not a JSON-RPC 2.0 message"}
    assert response.status_code == 400
    assert response.json() == {"jsonrpc": "2.0", "id": None, "error": error}


@pytest.mark.requirement("29")
@pytest.mark.parametrize("headers", [LIST_HEADERS, {}], ids=["modern", "legacy"])
@pytest.mark.parametrize("key", ["id", "\\u0069d"])
async def test_a_request_with_an_invalid_id_is_rejected_and_not_lost(
    key: str, headers: dict[str, str], service: LocalService
) -> None:
    message = "Invalid Request: the id must be a string or an integer"
    error = {"code": -32600, "message": message}
    for invalid in ("null", "1.5", "1.0", "1e3", "1e999", "true", "{}", "[1]"):
        body = f'{{"jsonrpc": "2.0", "{key}": {invalid}, "method": "tools/list"}}'
        response = await service.post(body.encode(), headers)
        assert response.status_code == 400
        assert response.json() == {"jsonrpc": "2.0", "id": None, "error": error}


async def test_a_notification_is_accepted(service: LocalService) -> None:
    notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"id": None}}
    headers = Client2026().headers("notifications/cancelled")
    assert (await service.post(notification, headers)).status_code == 202


@pytest.mark.requirement("29")
async def test_deeply_nested_arguments_are_rejected(service: LocalService) -> None:
    raw = Client2026()
    modern = raw.headers("tools/call", "list_calls")
    for depth, headers in product((40, 150, 900), (modern, {})):
        nested = reduce(lambda inner, _: {"a": inner}, range(depth), dict[str, Any]())
        body = raw.body("tools/call", name="list_calls", arguments=nested)
        response = await service.post(body, headers)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == -32700


@pytest.mark.requirement("29")
@pytest.mark.parametrize("headers", [LIST_HEADERS, {}], ids=["modern", "legacy"])
async def test_a_large_body_is_answered_with_413(headers: dict[str, str]) -> None:
    async def parts(amount: int) -> AsyncGenerator[bytes]:
        for _ in range(amount):
            yield b" " * 1024

    async with open_service(calls_mcp_http_body_bytes=4096) as service, service.http() as http:
        declared = await service.post(b" " * 5000, headers)
        undeclared = await http.post(service.url, content=parts(6), headers=headers)
        assert (declared.status_code, undeclared.status_code) == (413, 413)
        assert (await service.ask("tools/list")).status_code == 200


@pytest.mark.requirement("29")
async def test_slow_clients_do_not_delay_others() -> None:
    async with (
        open_service(calls_mcp_http_patience=0.3) as service,
        anyio.create_task_group() as tasks,
    ):

        async def dawdle(sent: bytes) -> None:
            async with await service.connection() as connection:
                await connection.send(sent)
                assert await rest_of(connection) == b""

        for _ in range(25):
            tasks.start_soon(dawdle, b"")
            tasks.start_soon(dawdle, b"POST /mcp HTTP/1.1\r\nHost: ")
        assert (await service.ask("tools/list")).status_code == 200


@pytest.mark.requirement("29")
async def test_sessions_are_limited_in_total(tmp_path: Path) -> None:
    names = ("ann", "bob", "cyd", "dan", "eve")
    file = principals(tmp_path / "p.toml", *names)
    async with open_service(**by_tokens(file, calls_mcp_http_sessions=4)) as service:
        statuses = [(await service.of(name).open_session()).status_code for name in names]
        assert statuses == [200, 200, 200, 200, 503]
        assert (await service.of("eve").ask("tools/list")).status_code == 200


async def _legacy_list(service: LocalService, headers: Mapping[str, str]) -> httpx.Response:
    return await service.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, headers)
