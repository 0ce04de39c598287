"""Items 37 to 42: within limits, true to what is said, and on the record."""

import json
import re
import socket
import sqlite3
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from calls_mcp.audit import verify
from calls_mcp.emulator import Emulator
from tests.rig import (
    ACCOUNT,
    CALLER,
    ERAS,
    TALKS_FOR_AN_HOUR,
    Rig,
    User,
    decline,
    open_rig,
    placing,
    structured,
    text_of,
)
from tests.security.canary import CALL_TOKEN, SIP_PASSWORD, betrayed
from tests.security.conversation import Era, Tool, changes_of
from tests.security.hostile import TEXTS
from tests.security.process import environment, started
from tests.upstream import (
    SID,
    Exchange,
    Upstream,
    access,
    answer,
    call,
    hang,
    page,
    scripted,
    serving,
)

pytestmark = pytest.mark.anyio

MB = 10**6
BUSY = {"code": 20429, "message": "Too many requests"}
FETCH: Tool = ("fetch_call", {"sid": SID})
LIST: Tool = ("list_calls", {"limit": 1})
CREATE: Tool = ("create_call", placing())
UPDATE: Tool = ("update_call", {"sid": SID, "status": "completed"})
DELETE: Tool = ("delete_call", {"sid": SID})
READS = [pytest.param(tool, id=tool[0]) for tool in (FETCH, LIST)]
CHANGES = [pytest.param(tool, id=tool[0]) for tool in (CREATE, UPDATE, DELETE)]


def policy(folder: Path, rules: str) -> Path:
    file = folder / "policy.toml"
    file.write_text(rules, "utf-8")
    return file


# 37


@pytest.mark.parametrize("section", ["caps", "caps.principal"])
async def test_item_37_of_sixty_calls_in_a_minute_no_more_are_placed_than_allowed(
    tmp_path: Path, section: str
) -> None:
    rules = policy(tmp_path, f"[{section}]\ncalls_per_minute = 5\n")
    outcomes: list[dict[str, Any]] = []
    async with open_rig(calls_mcp_policy=rules) as rig, rig.connect(user=User()) as agent:

        async def place(number: int) -> None:
            outcomes.append(await agent.call("create_call", **placing(to=f"+1617555{number:04}")))

        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(place, number)
        assert len(rig.changes) == 5
        rig.clock.advance(61)
        await place(61)
        assert len(rig.changes) == 6
        assert (await agent.call("list_calls"))["outcome"] == "done"  # reads go on
    refused = [outcome for outcome in outcomes if "error" in outcome]
    assert len(refused) == 55
    prefix = "principal." if "principal" in section else ""
    for outcome in refused:
        assert f"caps.{prefix}calls_per_minute" in outcome["error"]["message"]
        assert re.search(r"Wait [0-9]+ seconds", outcome["error"]["hint"])


@pytest.mark.parametrize(("key", "seconds"), [("calls_per_hour", 3600), ("calls_per_day", 86_400)])
async def test_item_37_longer_spans_are_limited_too(
    tmp_path: Path, key: str, seconds: float
) -> None:
    rules = policy(tmp_path, f"[caps]\n{key} = 2\n")
    async with open_rig(calls_mcp_policy=rules) as rig, rig.connect(user=User()) as agent:
        for number in range(4):
            await agent.call("create_call", **placing(to=f"+1617555{number:04}"))
            rig.clock.advance(seconds / 10)
        assert len(rig.changes) == 2
        rig.clock.advance(seconds)
        await agent.call("create_call", **placing())
        assert len(rig.changes) == 3


@pytest.mark.parametrize("tool", [*READS, *CHANGES])
async def test_item_37_a_retry_after_beyond_patience_is_told_and_not_tried_again(
    tool: Tool,
) -> None:
    busy = answer(429, BUSY, headers={"Retry-After": "60"})
    async with scripted(busy) as (upstream, agent):
        outcome = await agent.call(tool[0], **tool[1])
        assert len(upstream.requests) == 1
    assert outcome["error"]["kind"] == "rate_limited"
    assert "60 seconds" in outcome["error"]["hint"]


# A change is repeated as well, but only here: a 429 says that it was not processed.
@pytest.mark.parametrize("tool", [*READS, *CHANGES])
async def test_item_37_retries_of_what_is_too_much_are_bounded(tool: Tool) -> None:
    async with scripted(answer(429, BUSY)) as (upstream, agent):
        outcome = await agent.call(tool[0], **tool[1])
        assert len(upstream.requests) == 4
    assert outcome["error"]["kind"] == "rate_limited"
    assert outcome["error"]["http_status"] == 429


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
@pytest.mark.parametrize("tool", CHANGES)
async def test_item_37_a_change_that_may_have_happened_is_never_sent_again(
    tool: Tool, status: int
) -> None:
    async with scripted(answer(status, headers={"Retry-After": "0"}), deadline=1) as (
        upstream,
        agent,
    ):
        outcome = await agent.call(tool[0], **tool[1])
        assert len(upstream.changes) == 1
    assert outcome["error"]["kind"] == "outcome_unknown"


# 38


@contextmanager
def full_backlog() -> Generator[str]:
    """The URL of a server which is too busy to take a connection."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address: tuple[str, int] = server.getsockname()
        waiting = [socket.socket() for _ in range(2)]
        for client in waiting:
            client.settimeout(0)
            client.connect_ex(address)
        try:
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for client in waiting:
                client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses")
@pytest.mark.parametrize("tool", [*READS[:1], *CHANGES[:1]])
async def test_item_38_a_server_that_takes_no_connection_is_given_up(tool: Tool) -> None:
    with full_backlog() as url:
        async with serving(access(url, timeout=0.1, deadline=0.5)) as agent:
            outcome = await agent.call(tool[0], **tool[1])
    kinds = ("unreachable", "unavailable") if tool is FETCH else ("unreachable",)
    assert outcome["error"]["kind"] in kinds


async def drip(exchange: Exchange) -> None:
    """Answer, byte by byte, with no byte later than any patience and no end."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
    while True:
        await exchange.send(b" ")
        await anyio.sleep(0.02)  # a slow server is what is tested


async def drip_head(exchange: Exchange) -> None:
    """Never come to the end of the headers."""
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(10**9):
        await exchange.send(b"X-%d: x\r\n" % number)
        await anyio.sleep(0.02)


@pytest.mark.parametrize("step", [hang, drip, drip_head], ids=["hang", "drip", "drip of headers"])
@pytest.mark.parametrize("tool", [*READS, *CHANGES])
async def test_item_38_a_server_that_never_comes_to_an_end_is_given_up(
    tool: Tool, step: Callable[[Exchange], Any]
) -> None:
    async with scripted(step, step_timeout=0.4, deadline=1) as (upstream, agent):
        with anyio.fail_after(60):
            outcome = await agent.call(tool[0], **tool[1])
        assert len(upstream.changes) <= 1
    expected = ("unavailable", "unreachable") if tool in (FETCH, LIST) else ("outcome_unknown",)
    assert outcome["error"]["kind"] in expected


@pytest.mark.parametrize("tool", [*READS, *CHANGES[:2]])
@pytest.mark.parametrize(
    "length", [b"Content-Length: 50000000\r\n", b""], ids=["with its length", "without"]
)
async def test_item_38_of_an_answer_of_50_mb_a_part_is_read(tool: Tool, length: bytes) -> None:
    sent = 0

    async def immense(exchange: Exchange) -> None:
        nonlocal sent
        sent = 0
        await exchange.send(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        for _ in range(50):
            await exchange.send(b" " * MB)
            sent += 1

    async with scripted(immense, deadline=5) as (_, agent):
        outcome = await agent.call(tool[0], **tool[1])
    expected = ("unavailable", "unreachable") if tool in (FETCH, LIST) else ("outcome_unknown",)
    assert outcome["error"]["kind"] in expected
    assert sent < 32


# 39

# Tokenizers make about four characters of English into one token, and of SIDs and numbers
# between two and three; 2.5 is on the safe side for a list that has both.
CHARACTERS_PER_TOKEN = 2.5
MOST_TOKENS = 25_000


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tool", ["list_calls", "fetch_call"])
async def test_item_39_no_result_is_larger_than_a_client_takes(tool: str, text: str) -> None:
    fields = dict.fromkeys(
        ("caller_name", "forwarded_from", "from", "to", "answered_by", "group_sid"),
        TEXTS[text][:1000],
    )
    calls = [
        call(sid=f"CA{number:032x}", duration="12", price="-0.01300", start_time=None, **fields)
        for number in range(1000)
    ]
    script = answer(200, page(*calls, following="/x?Page=1&PageToken=P&PageSize=1000"))
    if tool == "fetch_call":
        script = answer(200, call(**fields))
    arguments: dict[str, object] = {"sid": SID} if tool == "fetch_call" else {"limit": 1000}
    async with scripted(script) as (_, agent):
        result = await agent.client.call_tool(tool, arguments)
    told = json.dumps(structured(result), ensure_ascii=False, separators=(",", ":"))
    for size in (len(told), len(text_of(result))):
        assert size / CHARACTERS_PER_TOKEN < MOST_TOKENS
    if tool == "list_calls":
        assert structured(result)["next_cursor"] in text_of(result)


async def test_item_39_what_is_asked_for_by_default_is_below_the_warning(rig: Rig) -> None:
    calls = [
        call(sid=f"CA{number:032x}", start_time="Tue, 14 Nov 2023 22:13:20 +0000")
        for number in range(50)
    ]
    async with scripted(answer(200, page(*calls))) as (_, agent):
        result = await agent.client.call_tool("list_calls", {})
    assert structured(result)["count"] == 50
    assert len(json.dumps(structured(result))) / CHARACTERS_PER_TOKEN < 10_000
    async with rig.connect() as agent:
        listed = await agent.client.list_tools()
    assert len(listed.model_dump_json()) / CHARACTERS_PER_TOKEN < 25_000


# 40


@pytest.mark.parametrize("era", ERAS)
async def test_item_40_the_hints_of_each_tool_are_true(rig: Rig, era: Era) -> None:
    create, update, delete = await changes_of(rig)
    reads: tuple[Tool, ...] = (
        ("fetch_call", {"sid": update[1]["sid"]}),
        ("list_calls", {}),
    )
    async with rig.connect(era, User()) as agent:
        hints = {tool.name: tool.annotations for tool in (await agent.client.list_tools()).tools}
        methods: dict[str, set[str]] = {}
        for name, arguments in (*reads, create, update, delete):
            before = len(rig.emulator.requests)
            assert (await agent.call(name, **arguments))["outcome"] == "done"
            methods[name] = {entry.method for entry in rig.emulator.requests[before:]}
    for name, used in methods.items():
        hint = hints[name]
        assert hint
        assert hint.open_world_hint is True
        assert hint.read_only_hint is (used == {"GET"})
    told = {
        name: (hint.read_only_hint, hint.destructive_hint, hint.idempotent_hint)
        for name, hint in hints.items()
        if hint
    }
    assert told == {
        "create_call": (False, False, False),
        "delete_call": (False, True, True),
        "fetch_call": (True, False, True),
        "list_calls": (True, False, True),
        "update_call": (False, True, False),
    }
    assert methods["create_call"] == {"POST"}
    assert methods["delete_call"] == {"GET", "DELETE"}


async def test_item_40_a_read_only_server_offers_no_other_tool_and_sends_only_gets() -> None:
    async with open_rig(calls_mcp_read_only=True) as rig, rig.connect() as agent:
        names = {tool.name for tool in (await agent.client.list_tools()).tools}
        for name, arguments in (CREATE, UPDATE, DELETE):
            with pytest.raises(Exception, match="read-only"):
                await agent.call(name, **arguments)
        await agent.call("list_calls")
        assert {entry.method for entry in rig.emulator.requests} == {"GET"}
    assert names == {"fetch_call", "list_calls"}


# 41


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def rows(file: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(file)) as connection:
        found = connection.execute("SELECT body FROM audit ORDER BY seq").fetchall()
    return [json.loads(body) for (body,) in found]


async def test_item_41_each_attempt_is_on_the_record_before_and_after_it(tmp_path: Path) -> None:
    file, database = tmp_path / "audit.jsonl", tmp_path / "audit.db"
    seen: list[int] = []

    async def place(exchange: Exchange) -> None:
        seen.append(len(records(file)))
        await answer(201, call())(exchange)

    async with scripted(
        place,
        answer(400, {"code": 21220, "message": "no"}),
        answer(500),
        calls_mcp_audit_file=file,
        calls_mcp_audit_database=database,
        deadline=2,
    ) as (_, agent):
        for tool in (CREATE, UPDATE, DELETE):
            await agent.call(tool[0], **tool[1])
    assert seen == [1]
    told = records(file)
    assert [{**r, "prev": "", "hash": ""} for r in told] == [
        {**r, "prev": "", "hash": ""} for r in rows(database)
    ]
    assert [(r["phase"], r["tool"]) for r in told] == [
        (phase, tool[0]) for tool in (CREATE, UPDATE, DELETE) for phase in ("before", "after")
    ]
    for record in told:
        assert re.fullmatch(r"[0-9-]{10}T[0-9:.]{12}Z", record["time"])
        assert record["principal"]
        assert record["account_sid"] == ACCOUNT
    assert [r["decision"] for r in told[::2]] == ["allowed"] * 3
    assert all("arguments" in record for record in told[::2])
    assert [r["id"] for r in told[::2]] == [r["id"] for r in told[1::2]]
    assert [r["sid"] for r in told[1:]] == [SID] * 5
    assert [r["outcome"] for r in told[1::2]] == ["done", "error", "error"]
    assert told[3]["http_status"] == 400
    report = await anyio.to_thread.run_sync(verify, file)
    assert report.is_intact


@pytest.mark.parametrize("numbers", ["masked", "whole"])
async def test_item_41_the_record_has_no_secret_and_no_number_unless_it_is_told_to(
    tmp_path: Path, numbers: str
) -> None:
    file, database = tmp_path / "audit.jsonl", tmp_path / "audit.db"
    secrets = {"sip_auth_password": SIP_PASSWORD, "call_token": CALL_TOKEN}
    url = f"https://u.example/+15005550177?pw={CALL_TOKEN[:3]}canary"
    async with open_rig(
        calls_mcp_audit_file=file,
        calls_mcp_audit_database=database,
        calls_mcp_audit_numbers=numbers,
    ) as rig:
        async with rig.connect(name=f"client of {CALLER}") as agent:
            sid = await agent.place(**secrets, url=url, call_reason=f"for {TALKS_FOR_AN_HOUR}")
            await agent.confirm("update_call", sid=sid, status="completed")
        async with rig.connect(user=User(decline)) as agent:
            await agent.call("create_call", **placing(**secrets))
    told = file.read_text("utf-8") + database.read_bytes().decode("latin-1")
    assert betrayed(told) == []
    assert "canary" not in told
    found = [n for n in (CALLER, TALKS_FOR_AN_HOUR, "+15005550177") if n[1:] in told]
    assert len(found) == (0 if numbers == "masked" else 3)


@pytest.mark.parametrize("text", TEXTS)
async def test_item_41_no_text_can_forge_a_line_of_the_record(tmp_path: Path, text: str) -> None:
    file = tmp_path / "audit.jsonl"
    forged = f'{TEXTS[text][:200]}\n{{"seq":2,"outcome":"done","decision":"allowed"}}\n'
    async with open_rig(calls_mcp_audit_file=file) as rig, rig.connect(name=forged) as agent:
        await agent.call("create_call", **placing(call_reason=forged.replace("\n", " ")))
        await agent.call("create_call", **placing(confirmation_token="x"))
    lines = file.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert all(line.isascii() for line in lines)
    told = records(file)
    assert len(told) == len(lines)
    assert {record["decision"] for record in told} <= {"asked", "denied"}
    assert "outcome" not in told[0]


async def test_item_41_the_record_is_only_added_to(tmp_path: Path) -> None:
    file, database = tmp_path / "audit.jsonl", tmp_path / "audit.db"
    before = b""
    for _ in range(3):  # a restart adds to it, too
        async with (
            open_rig(calls_mcp_audit_file=file, calls_mcp_audit_database=database) as rig,
            rig.connect() as agent,
        ):
            await agent.place()
        after = file.read_bytes()
        assert after.startswith(before)
        assert len(after) > len(before)
        before = after
    with closing(sqlite3.connect(database)) as connection:
        for statement in ("DELETE FROM audit", "UPDATE audit SET body = ''"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
    assert len(rows(database)) == 9
    assert file.stat().st_mode & 0o077 == 0
    report = await anyio.to_thread.run_sync(verify, file)
    assert report.is_intact


@pytest.mark.parametrize("tool", ["create_call", "update_call", "delete_call"])
async def test_item_41_what_can_not_be_recorded_is_not_done(tmp_path: Path, tool: str) -> None:
    arguments = dict([CREATE, UPDATE, DELETE])[tool]
    file = tmp_path / "no" / "such" / "folder"
    async with scripted(answer(200, call()), calls_mcp_audit_file=file) as (upstream, agent):
        outcome = await agent.call(tool, **arguments)
        assert upstream.changes == []
    assert outcome["error"]["kind"] == "audit_unavailable"


# 42


@pytest.mark.parametrize("arguments", [(), ("serve", "--sandbox")], ids=["serve", "sandbox"])
async def test_item_42_stdout_has_the_protocol_alone(arguments: tuple[str, ...]) -> None:
    async with Upstream(answer(500), answer(200, b"{"), answer(201, call())) as upstream:
        variables = environment(
            upstream.base_url, CALLS_MCP_LOG_LEVEL="DEBUG", CALLS_MCP_DEADLINE="1"
        ) | {"PYTHONWARNINGS": "always", "PYTHONASYNCIODEBUG": "1"}
        async with started(variables, *arguments) as server:
            await server.ask("tools/list")
            for name, given in (FETCH, LIST, CREATE, UPDATE, DELETE, ("nonsense", {})):
                await server.ask("tools/call", name=name, arguments=given)
            await server.ask("prompts/list")
            await server.ask("no/such/method")
            await server.write("no JSON\x1b[31m")
            await server.write("[]")
            await server.write('{"jsonrpc": "1.0"}')
            await server.ask("ping")
            assert await server.end() == 0
            log = server.logged()
    for line in server.lines:
        message = json.loads(line)
        assert message["jsonrpc"] == "2.0"
    assert len(server.lines) >= 10
    assert '"jsonrpc"' not in log


async def test_item_42_the_record_and_the_logs_go_to_stderr() -> None:
    async with (
        Emulator() as emulator,
        started(environment(emulator.base_url, CALLS_MCP_LOG_LEVEL="DEBUG")) as server,
    ):
        answered = await server.ask("tools/call", name="create_call", arguments=placing())
        assert answered["result"]["structuredContent"]["outcome"] == "confirmation_required"
        await server.end()
        log = server.logged()
    assert len(server.lines) == 1
    assert '"decision":"asked"' in log
    assert "calls-mcp: " in log


async def test_item_42_what_is_wrong_at_start_goes_to_stderr() -> None:
    for arguments in ((), ("no-such-command",), ("serve", "--no-such-option")):
        async with started({"TWILIO_ACCOUNT_SID": "", "TWILIO_AUTH_TOKEN": ""}, *arguments) as one:
            assert await one.process.wait() == 2
            await one.end()
            assert one.lines == []
            assert one.logged()
