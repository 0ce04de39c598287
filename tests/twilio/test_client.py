"""A misbehaving API: retries, errors, and leaks of secrets."""

import base64
import gzip
import json
import logging
import re
import socket
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import pytest
from tenacity.wait import wait_fixed

from calls_mcp import __version__
from tests.harness import ACCOUNT, structured, text_of
from tests.twilio.harness import CREATE, DELETE, FETCH, HANG_UP, LIST
from tests.upstream import (
    PATH,
    SECRET,
    SID,
    Exchange,
    Request,
    Step,
    Tool,
    Upstream,
    access,
    answer,
    call,
    drop,
    drop_unread,
    error_of,
    hang,
    page,
    redirect,
    refusing,
    scripted,
    serving,
    use,
)

pytestmark = pytest.mark.anyio

MIB = 2**20
OTHER_SID = "CA" + "2" * 32
OTHER_ACCOUNT = "AC" + "2" * 32
HTML = "<html><body>Captive portal: please log in</body></html>"
BUSY = {"code": 20429, "message": "Too many requests", "status": 429}

READS = [pytest.param(tool, id=tool[0]) for tool in (FETCH, LIST)]
CHANGES = [pytest.param(tool, id=tool[0]) for tool in (CREATE, HANG_UP, DELETE)]
POSTS = CHANGES[:2]

SUCCESS: dict[str, Step] = {
    "fetch_call": answer(200, call()),
    "list_calls": answer(200, page(call())),
    "create_call": answer(201, call()),
    "update_call": answer(200, call(status="completed")),
    "delete_call": answer(204),
}


# Responses to the lookup of a change from which nothing can be concluded.
NOTHING_TO_SEE = answer(400)


def busy(**headers: str) -> Step:
    return answer(429, BUSY, headers={name.replace("_", "-"): v for name, v in headers.items()})


# Retries


@pytest.mark.parametrize("tool", READS)
@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(drop, id="dropped after reading"),
        pytest.param(drop_unread, id="dropped before reading"),
        pytest.param(answer(500), id="500"),
        pytest.param(answer(503, HTML), id="503 in HTML"),
        pytest.param(answer(408), id="408"),
        pytest.param(busy(), id="429"),
        pytest.param(answer(200, HTML), id="200 in HTML"),
        pytest.param(answer(200, b'{"calls": [', length=500), id="broken off"),
    ],
)
async def test_a_failed_read_is_retried(tool: Tool, failure: Step) -> None:
    async with scripted(failure, SUCCESS[tool[0]]) as (upstream, agent):
        outcome = await use(agent, tool)
    assert outcome["outcome"] == "done"
    assert {request.method for request in upstream.requests} == {"GET"}
    assert upstream.requests[0].target == upstream.requests[-1].target


async def test_a_read_fails_after_four_attempts() -> None:
    async with scripted(answer(503)) as (upstream, agent):
        error = await error_of(agent, FETCH)
    assert upstream.methods == ["GET"] * 4
    assert error["kind"] == "unavailable"
    assert error["retryable"] is True
    assert "503" in error["message"]


@pytest.mark.requirement("37")
@pytest.mark.parametrize("tool", [*READS, *CHANGES])
async def test_a_rate_limited_request_fails_after_four_attempts(tool: Tool) -> None:
    async with scripted(busy()) as (upstream, agent):
        error = await error_of(agent, tool)
    assert len(upstream.requests) == 4
    assert (error["kind"], error["http_status"]) == ("rate_limited", 429)


@pytest.mark.parametrize("tool", CHANGES)
async def test_a_rate_limited_change_is_retried(tool: Tool) -> None:
    async with scripted(busy(), SUCCESS[tool[0]]) as (upstream, agent):
        outcome = await use(agent, tool)
    assert outcome["outcome"] == "done"
    first, second = upstream.requests
    assert (first.method, first.target, first.body) == (second.method, second.target, second.body)


class _Refusals(logging.Handler):
    """Sets an event as soon as an attempt got no response."""

    def __init__(self) -> None:
        super().__init__()
        self.happened = anyio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().endswith("attempt 1: no response"):
            self.happened.set()


@pytest.mark.parametrize("tool", [*READS, *CHANGES])
async def test_a_request_that_never_left_is_retried(
    caplog: pytest.LogCaptureFixture, tool: Tool
) -> None:
    caplog.set_level(logging.INFO, "calls_mcp.observability.telemetry")
    refusals = _Refusals()
    outcome: dict[str, Any] = {}
    logging.getLogger("calls_mcp.observability.telemetry").addHandler(refusals)

    async def open_at_the_first_refusal() -> None:
        await refusals.happened.wait()
        assert upstream.requests == []
        await upstream.open()

    try:
        async with (
            Upstream(SUCCESS[tool[0]], opens=False) as upstream,
            serving(access(upstream.base_url)) as agent,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(open_at_the_first_refusal)
            outcome = await use(agent, tool)
    finally:
        logging.getLogger("calls_mcp.observability.telemetry").removeHandler(refusals)
    assert outcome["outcome"] == "done"
    assert len(upstream.requests) == 1


async def test_a_refused_connection_is_unreachable_and_retryable() -> None:
    with refusing() as base_url:
        async with serving(access(base_url, deadline=20)) as agent:
            error = await error_of(agent, CREATE)
    assert error["kind"] == "unreachable"
    assert error["retryable"] is True
    assert error["message"] == "Nothing was sent: the connection failed: connection refused."
    assert "base URL" in error["hint"]


async def test_a_rate_limited_change_that_then_never_left_did_not_happen() -> None:
    async def answer_and_leave(exchange: Exchange) -> None:
        upstream.leave()
        await answer(429, BUSY, headers={"Connection": "close"})(exchange)

    async with scripted(answer_and_leave, deadline=1) as (upstream, agent):
        error = await error_of(agent, CREATE)
    assert upstream.methods == ["POST"]
    assert error["kind"] == "unreachable"
    assert error["retryable"] is True


# Waiting


async def test_the_seconds_of_retry_after_are_waited() -> None:
    async with scripted(busy(Retry_After="1"), SUCCESS["fetch_call"]) as (_, agent):
        started = anyio.current_time()
        outcome = await use(agent, FETCH)
    assert outcome["outcome"] == "done"
    assert 1 <= anyio.current_time() - started < 4


async def test_a_retry_after_that_is_a_date_is_waited_for() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=2)
    date = format_datetime(moment, usegmt=True)
    async with scripted(busy(Retry_After=date), SUCCESS["create_call"]) as (upstream, agent):
        await use(agent, CREATE)
    assert upstream.methods == ["POST"] * 2
    # A date has whole seconds, and two clocks differ slightly.
    assert datetime.now(UTC) >= moment - timedelta(seconds=1.1)


@pytest.mark.requirement("37")
@pytest.mark.parametrize(
    "retry_after",
    [
        pytest.param("3600", id="seconds"),
        pytest.param("Thu, 31 Dec 2099 23:59:59 GMT", id="a date"),
        pytest.param("9" * 400, id="more seconds than a number holds"),
    ],
)
@pytest.mark.parametrize("tool", [READS[0], *CHANGES])
async def test_a_retry_after_beyond_the_deadline_fails_immediately(
    tool: Tool, retry_after: str
) -> None:
    async with scripted(busy(Retry_After=retry_after)) as (upstream, agent):
        error = await error_of(agent, tool)
    assert len(upstream.requests) == 1
    assert error["kind"] == "rate_limited"
    assert error["retryable"] is True


@pytest.mark.parametrize(
    "retry_after",
    [
        "soon",
        "-1",
        "1.5",
        "٣",
        "Fri, 99999999999999999999 Oct 2019 17:02:00 GMT",
        "Fri, 18 Oct 2019 17:02:00 +99999999999999999999",
        "Fri, 18 Oct 2019 17:02:00 -0000",
        "Thu, 01 Jan 1970 00:00:00 GMT",
    ],
)
async def test_an_invalid_retry_after_is_ignored(retry_after: str) -> None:
    raw = retry_after.encode().decode("latin-1")
    async with scripted(busy(Retry_After=raw), SUCCESS["fetch_call"]) as (upstream, agent):
        outcome = await use(agent, FETCH)
    assert outcome["outcome"] == "done"
    assert len(upstream.requests) == 2


@pytest.mark.requirement("38")
async def test_the_deadline_limits_all_attempts_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calls_mcp.twilio.client._BACK_OFF", wait_fixed(0.3))
    async with scripted(drop, deadline=1) as (upstream, agent):
        error = await error_of(agent, FETCH)
    assert error["kind"] == "unavailable"
    assert 1 <= len(upstream.requests) <= 4  # at 0, 0.3, 0.6 and 0.9 s


async def drip_body(exchange: Exchange) -> None:
    """Send a body that never ends."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        await exchange.send(b" ")
        await anyio.sleep(0.02)  # a slow server is what is tested


@pytest.mark.requirement("38")
@pytest.mark.parametrize(("tool", "kind"), [(FETCH, "unavailable"), (CREATE, "outcome_unknown")])
async def test_the_deadline_limits_a_slow_body(tool: Tool, kind: str) -> None:
    async with scripted(drip_body, NOTHING_TO_SEE, deadline=2) as (upstream, agent):
        error = await error_of(agent, tool)
    assert error["kind"] == kind
    assert re.search(r"no response within [0-2](\.\d)? s", error["message"])
    assert len(upstream.changes) == (tool is CREATE)


async def drip_head(exchange: Exchange) -> None:
    """Send headers that never end."""
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await exchange.send(b"X: x\r\n")
        await anyio.sleep(0.02)  # a slow server is what is tested


@pytest.mark.requirement("38")
@pytest.mark.parametrize("tool", [*READS, *CHANGES])
async def test_the_deadline_limits_slow_headers(tool: Tool) -> None:
    async with scripted(drip_head, step_timeout=0.8, deadline=2) as (upstream, agent):
        error = await error_of(agent, tool)
    expected = ("unavailable", "unreachable") if tool in (FETCH, LIST) else ("outcome_unknown",)
    assert error["kind"] in expected
    assert len(upstream.changes) <= 1


@contextmanager
def full_backlog() -> Generator[str]:
    """Return the URL of a server that is too busy to accept a connection."""
    with socket.socket() as server, ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(2):
            client = waiting.enter_context(socket.socket())
            client.settimeout(0)
            client.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.requirement("38")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses")
@pytest.mark.parametrize(
    ("tool", "kinds"), [(FETCH, "unreachable unavailable"), (CREATE, "unreachable")]
)
async def test_connecting_is_limited_by_the_timeout(tool: Tool, kinds: str) -> None:
    with full_backlog() as url:
        async with serving(access(url, timeout=0.1, deadline=0.5)) as agent:
            error = await error_of(agent, tool)
    assert error["kind"] in kinds.split()


# Lost responses to changes


@pytest.mark.requirement("11", "37", "38")
@pytest.mark.parametrize("tool", CHANGES)
@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(drop, id="dropped after reading"),
        pytest.param(drop_unread, id="dropped before reading"),
        pytest.param(answer(500), id="500"),
        pytest.param(answer(502, HTML), id="502 in HTML"),
        pytest.param(answer(503, headers={"Retry-After": "1"}), id="503 with Retry-After"),
        pytest.param(answer(504), id="504"),
        pytest.param(answer(408), id="408"),
        pytest.param(hang, id="hangs"),
        pytest.param(answer(200, b'{"sid": "CA', length=500), id="broken off"),
        pytest.param(redirect("/elsewhere"), id="redirected"),
        pytest.param(answer(200, HTML), id="200 in HTML"),
        pytest.param(
            answer(200, b"no gzip", headers={"Content-Encoding": "gzip"}), id="not decodable"
        ),
    ],
)
async def test_a_change_without_a_response_is_not_retried_and_its_outcome_is_unknown(
    tool: Tool, failure: Step
) -> None:
    async with scripted(failure, NOTHING_TO_SEE, step_timeout=0.3) as (upstream, agent):
        error = await error_of(agent, tool)
    assert error["kind"] == "outcome_unknown"
    assert error["retryable"] is False
    assert error["message"].startswith("It is unknown whether this took effect:")
    assert error["hint"].startswith("Do not retry yet.")
    assert len(upstream.changes) == (0 if failure is drop_unread else 1)


@pytest.mark.requirement("13")
@pytest.mark.parametrize("tool", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"sid": "CA11', id="half of it"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"done"', id="a text"),
        pytest.param(b"null", id="null"),
        pytest.param(b"\xff\xfe\xff", id="no text"),
        pytest.param(b"[" * 100_000, id="nested too deep"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", id="a number too long"),
        pytest.param(b"{}", id="no call"),
        pytest.param(json.dumps(call(sid="CA1")).encode(), id="no SID"),
        pytest.param(json.dumps(call(account_sid=OTHER_ACCOUNT)).encode(), id="another account"),
    ],
)
async def test_a_success_without_the_call_leaves_the_outcome_unknown(
    tool: Tool, body: bytes
) -> None:
    async with scripted(answer(201, body), NOTHING_TO_SEE) as (upstream, agent):
        error = await error_of(agent, tool)
    assert error["kind"] == "outcome_unknown"
    assert len(upstream.changes) == 1


@pytest.mark.parametrize("tool", CHANGES[1:])
async def test_the_hint_after_a_lost_change_says_where_to_look(tool: Tool) -> None:
    async with scripted(drop) as (_, agent):
        error = await error_of(agent, tool)
    assert f"fetch_call (sid={SID}, account_sid={ACCOUNT})" in error["hint"]
    assert ("not_found means that it was deleted" in error["hint"]) == (tool is DELETE)


async def test_a_deletion_is_done_after_an_empty_204() -> None:
    async with scripted(answer(204)) as (upstream, agent):
        outcome = await use(agent, DELETE)
    assert outcome == {"outcome": "done", "deleted": SID}
    assert upstream.methods == ["DELETE"]


# Responses about something else


@pytest.mark.requirement("08", "13")
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(call(sid=OTHER_SID), id="another call"),
        pytest.param(call(account_sid=OTHER_ACCOUNT), id="another account"),
        pytest.param(call(sid=None), id="no SID"),
        pytest.param(call(sid=SID + "\n"), id="a SID and a line break"),
        pytest.param({}, id="nothing"),
        pytest.param(page(call()), id="a list"),
    ],
)
async def test_a_response_about_another_call_is_an_error(
    body: dict[str, Any],
) -> None:
    async with scripted(answer(200, body)) as (_, agent):
        result = await agent.client.call_tool(*FETCH)
    assert structured(result)["error"]["kind"] == "unavailable"
    assert OTHER_SID not in text_of(result)
    assert OTHER_ACCOUNT not in text_of(result)


async def test_an_update_answered_with_another_call_leaves_the_outcome_unknown() -> None:
    async with scripted(answer(200, call(sid=OTHER_SID))) as (_, agent):
        error = await error_of(agent, HANG_UP)
    assert error["kind"] == "outcome_unknown"
    assert OTHER_SID not in json.dumps(error)


@pytest.mark.requirement("13")
@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="no list"),
        pytest.param({"calls": None}, id="null"),
        pytest.param({"calls": {"0": call()}}, id="an object"),
        pytest.param({"calls": SID}, id="a text"),
    ],
)
async def test_a_response_without_a_list_of_calls_is_an_error(body: object) -> None:
    async with scripted(answer(200, body)) as (_, agent):
        error = await error_of(agent, LIST)
    assert error["kind"] == "unavailable"
    assert "no list of calls" in error["message"]


PACKED = gzip.compress(json.dumps(call()).encode())


async def test_a_compressed_body_is_decompressed() -> None:
    packed = answer(200, PACKED, headers={"Content-Encoding": "gzip"})
    async with scripted(packed) as (upstream, agent):
        assert (await use(agent, FETCH))["call"]["sid"] == SID
    assert upstream.requests[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("body", [b"no gzip", PACKED[:-10]], ids=["another", "broken off"])
async def test_a_body_that_cannot_be_decompressed_is_an_error(body: bytes) -> None:
    broken = answer(200, body, headers={"Content-Encoding": "gzip"})
    async with scripted(broken, deadline=1.5) as (_, agent):
        error = await error_of(agent, FETCH)
    assert error["kind"] == "unavailable"
    assert "was incomplete or could not be decoded" in error["message"]


# Redirects and size


@pytest.mark.requirement("31")
@pytest.mark.parametrize(
    ("tool", "kind"), [(FETCH, "unavailable"), (LIST, "unavailable"), (CREATE, "outcome_unknown")]
)
async def test_a_redirect_is_not_followed_so_no_credentials_reach_another_server(
    tool: Tool, kind: str
) -> None:
    async with Upstream(answer(200, page(call()))) as other:
        async with scripted(redirect(f"{other.base_url}{PATH}"), deadline=1.5) as (_, agent):
            error = await error_of(agent, tool)
        assert other.connections == 0
    assert error["kind"] == kind
    assert "302" in error["message"]


async def test_no_cookie_is_kept() -> None:
    told = answer(200, call(), headers={"Set-Cookie": "session=1; Path=/"})
    async with scripted(told) as (upstream, agent):
        for _ in range(2):
            await use(agent, FETCH)
    assert not any("cookie" in request.headers for request in upstream.requests)


@pytest.mark.requirement("38")
async def test_an_endless_response_is_aborted() -> None:
    sent = 0
    chunk = b" " * MIB

    async def count(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await exchange.send(chunk)
            sent += 1

    async with scripted(count, NOTHING_TO_SEE) as (_, agent):
        error = await error_of(agent, CREATE)
    assert error["kind"] == "outcome_unknown"
    assert "too large" in error["message"]
    assert 16 <= sent < 32


@pytest.mark.requirement("38")
async def test_a_body_that_is_too_large_when_decompressed_is_aborted() -> None:
    bomb = gzip.compress(b" " * (32 * MIB), compresslevel=1)
    packed = answer(201, bomb, headers={"Content-Encoding": "gzip"})
    async with scripted(packed) as (_, agent):
        error = await error_of(agent, CREATE)
    assert error["kind"] == "outcome_unknown"
    assert "too large" in error["message"]


async def test_a_response_of_several_megabytes_is_read() -> None:
    large = json.dumps(page(call())).encode() + b" " * (8 * MIB)
    async with scripted(answer(200, large)) as (_, agent):
        outcome = await agent.call("list_calls")
    assert outcome["count"] == 1


# Secrets


async def test_one_connection_serves_many_invocations() -> None:
    script = [SUCCESS["fetch_call"], SUCCESS["list_calls"], SUCCESS["create_call"], answer(204)]
    async with scripted(*script) as (upstream, agent):
        for tool in (FETCH, LIST, CREATE, DELETE):
            assert (await use(agent, tool))["outcome"] == "done"
    assert upstream.methods == ["GET", "GET", "POST", "DELETE"]
    assert upstream.connections == 1


async def test_a_connection_that_the_api_has_closed_is_not_used() -> None:
    async def answer_and_close(exchange: Exchange) -> None:
        await SUCCESS["fetch_call"](exchange)
        exchange.writer.close()

    async with scripted(answer_and_close, SUCCESS["create_call"]) as (upstream, agent):
        await use(agent, FETCH)
        assert (await use(agent, CREATE))["outcome"] == "done"
    assert upstream.methods == ["GET", "POST"]
    assert upstream.connections == 2


async def test_every_request_has_a_user_agent_and_accepts_json() -> None:
    script = [SUCCESS["fetch_call"], SUCCESS["create_call"]]
    async with scripted(*script) as (upstream, agent):
        await use(agent, FETCH)
        await use(agent, CREATE)
    for request in upstream.requests:
        assert request.headers["user-agent"] == f"calls-mcp/{__version__}"
        assert request.headers["accept"] == "application/json"
    fetch, create = upstream.requests
    assert fetch.target == PATH.replace("Calls.json", f"Calls/{SID}.json")
    assert create.target == PATH
    assert "content-type" not in fetch.headers
    assert create.headers["content-type"] == "application/x-www-form-urlencoded"


def credentials(request: Request) -> str:
    scheme, _, encoded = request.headers["authorization"].partition(" ")
    assert scheme == "Basic"
    return base64.b64decode(encoded).decode()


async def test_the_account_and_its_token_authenticate() -> None:
    async with scripted(answer(204)) as (upstream, agent):
        await use(agent, DELETE)
    assert credentials(upstream.requests[0]) == f"{ACCOUNT}:{SECRET}"


async def test_an_api_key_and_its_secret_authenticate_for_the_account() -> None:
    key = "SK" + "3" * 32
    async with (
        Upstream(answer(204)) as upstream,
        serving(replace(access(upstream.base_url), username=key)) as agent,
    ):
        await use(agent, DELETE)
    (request,) = upstream.requests
    assert credentials(request) == f"{key}:{SECRET}"
    assert f"/Accounts/{ACCOUNT}/" in request.target


def shapes_of(secret: str) -> list[str]:
    """Return the secret in all encodings that may leak."""
    pair = f"{ACCOUNT}:{secret}".encode()
    return [
        secret,
        secret[:12],
        base64.b64encode(secret.encode()).decode().rstrip("="),
        base64.b64encode(pair).decode().rstrip("="),
        secret.encode().hex(),
    ]


@pytest.mark.requirement("16", "17")
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(answer(200, call()), id="success"),
        pytest.param(answer(401, {"code": 20003, "message": "Authenticate"}), id="401"),
        pytest.param(answer(400, {"message": f"no user with {SECRET}"}), id="echoes the secret"),
        pytest.param(
            answer(400, {"message": "no user " + shapes_of(SECRET)[3]}), id="echoes the header"
        ),
        pytest.param(answer(500, HTML), id="500"),
        pytest.param(drop, id="dropped"),
        pytest.param(hang, id="hangs"),
        pytest.param(redirect("/elsewhere"), id="redirected"),
    ],
)
async def test_the_secret_is_in_no_result_and_in_no_log(
    caplog: pytest.LogCaptureFixture, step: Step
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in (
        "calls_mcp",
        "calls_mcp.observability.telemetry",
        "httpx",
        "httpcore",
        "mcp",
        "asyncio",
    ):
        caplog.set_level(logging.DEBUG, name)
    async with scripted(step, step_timeout=0.3, deadline=1.5) as (upstream, agent):
        results = [await agent.client.call_tool(*tool) for tool in (FETCH, HANG_UP)]
    assert credentials(upstream.requests[0]).endswith(SECRET)
    assert "request to the API, attempt 1" in caplog.text
    told = "".join(result.model_dump_json() for result in results) + caplog.text
    told += "".join(str(vars(record)) for record in caplog.records)
    for shape in shapes_of(SECRET):
        assert shape not in told
