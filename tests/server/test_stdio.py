"""The server as a process: its streams, how it ends, and its exit status."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, cast

import pytest
from mcp import Client, StdioServerParameters

from tests.harness import ERAS, Agent, Era, User, placing

pytestmark = pytest.mark.process

NEVER_CALLED = "+16175550123"
SANDBOX = [sys.executable, "-m", "calls_mcp", "serve", "--sandbox"]
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Wire:
    """A client that speaks lines of JSON."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Send a 2026-07-28 request and return its response."""
        meta = ENVELOPE | cast("dict[str, Any]", params.pop("_meta", {}))
        self.send({"id": 1, "method": method, "params": {**params, "_meta": meta}})
        return self.read()

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        return cast("dict[str, Any]", json.loads(self.process.stdout.readline()))


@contextmanager
def running(*command: str) -> Generator[Wire]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(  # noqa: S603  # our own program
        command or SANDBOX, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8"
    )
    try:
        with process:
            yield Wire(process)
    finally:
        process.kill()


def ended(wire: Wire) -> tuple[int, str, str]:
    """Return the exit status, and the rest of stdout and stderr."""
    out, err = wire.process.communicate(timeout=60)
    return wire.process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, None])
@pytest.mark.parametrize("used", [True, False], ids=["after an invocation", "unused"])
def test_a_signal_or_end_of_input_ends_the_server_immediately_with_status_0(
    number: signal.Signals | None, *, used: bool
) -> None:
    with running() as wire:
        wire.ask("tools/list")
        if used:
            wire.ask("tools/call", name="list_calls", arguments={})
        if number is not None:
            wire.process.send_signal(number)
        assert ended(wire) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_start_ends_the_server_quietly_with_status_0(
    number: signal.Signals,
) -> None:
    with running(sys.executable, "-v", "-m", "calls_mcp", "serve", "--sandbox") as wire:
        assert wire.process.stderr
        begun = next(line for line in wire.process.stderr if "import 'argparse'" in line)
        wire.process.send_signal(number)
        status, out, err = ended(wire)
    assert begun
    assert (status, out) == (0, "")
    assert "Traceback" not in err


@contextmanager
def asked_by_form() -> Generator[tuple[Wire, Any]]:
    """Start a server that asks an older client to confirm a call. Yield the question's id."""
    hello: dict[str, Any] = {
        "protocolVersion": "2025-06-18",
        "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "raw", "version": "1"},
    }
    with running() as wire:
        wire.send({"id": 1, "method": "initialize", "params": hello})
        wire.read()
        wire.send({"method": "notifications/initialized"})
        params = {"name": "create_call", "arguments": placing(to=NEVER_CALLED)}
        wire.send({"id": 2, "method": "tools/call", "params": params})
        question = wire.read()
        assert question["method"] == "elicitation/create"
        yield wire, question["id"]


@pytest.mark.requirement("04")
@pytest.mark.parametrize(
    "answer",
    [
        {"result": {"action": "perhaps"}},
        {"result": {"action": "accept", "content": 1}},
        {"error": {"code": -32601, "message": "Method not found"}},
    ],
)
def test_an_older_client_that_cannot_ask_gets_a_token_and_is_not_asked_again(
    answer: dict[str, Any],
) -> None:
    with asked_by_form() as (wire, question):
        wire.send({"id": question, **answer})
        first = wire.read()
        params = {"name": "create_call", "arguments": placing(to=NEVER_CALLED, timeout=20)}
        wire.send({"id": 3, "method": "tools/call", "params": params})
        second = wire.read()
    for told in (first, second):
        assert told["result"]["structuredContent"]["outcome"] == "confirmation_required"


def test_a_2026_client_that_cannot_ask_gets_a_token_and_is_not_asked_again() -> None:
    asking: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
    call: dict[str, Any] = {"name": "create_call", "arguments": placing(to=NEVER_CALLED)}
    with running() as wire:
        state = wire.ask("tools/call", **call, _meta=asking)["result"]["requestState"]
        first = wire.ask("tools/call", **call, _meta=asking, requestState=state)
        second = wire.ask("tools/call", **call, _meta=asking)
    for told in (first, second):
        assert told["result"]["structuredContent"]["outcome"] == "confirmation_required"


@pytest.mark.requirement("28")
def test_a_call_that_is_cancelled_while_it_is_asked_about_is_not_placed() -> None:
    with asked_by_form() as (wire, question):
        cancelled = {"requestId": 2, "reason": "the user left"}
        wire.send({"method": "notifications/cancelled", "params": cancelled})
        yes = {"action": "accept", "content": {"approve": True}}
        wire.send({"id": question, "result": yes})
        params = {"name": "list_calls", "arguments": {"to": NEVER_CALLED}}
        wire.send({"id": 3, "method": "tools/call", "params": params})
        while (told := wire.read()).get("id") != 3:
            pass
        assert ended(wire)[0] == 0
    assert told["result"]["structuredContent"]["calls"] == []


def test_responses_before_the_end_of_input_are_complete() -> None:
    with running() as wire:
        wire.ask("tools/list")
        assert wire.process.stdin
        for number in range(2, 7):  # more than a pipe holds, and nobody reads yet
            params = {"_meta": ENVELOPE}
            wire.send({"id": number, "method": "tools/list", "params": params})
        wire.send(
            {"id": 7, "method": "tools/call", "params": {"name": "nothing", "_meta": ENVELOPE}}
        )
        wire.process.stdin.close()
        assert wire.process.stdout
        told = [json.loads(line)["id"] for line in wire.process.stdout]
        assert wire.process.wait(timeout=60) == 0
    assert told == sorted({*told})
    assert told  # as many as were complete by then


def test_a_line_that_is_too_long_does_not_end_the_server() -> None:
    with running() as wire:
        assert wire.process.stdin
        wire.process.stdin.write("x" * (2**26 + 2) + "\n")
        wire.process.stdin.flush()
        refused = wire.read()
        assert (refused["id"], refused["error"]["code"]) == (None, -32700)
        assert "too long" in refused["error"]["message"]
        assert wire.ask("tools/list")["result"]["tools"]


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "<&- 2>&-"])
def test_the_server_starts_without_some_of_the_standard_streams(closed: str) -> None:
    command = f'exec "$0" -m calls_mcp serve --sandbox {closed}'
    ended = subprocess.run(  # noqa: S603
        ["/bin/sh", "-c", command, sys.executable],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (0, b"")


@pytest.mark.parametrize("number", [None, signal.SIGTERM], ids=["end of input", "a signal"])
def test_an_open_subscription_does_not_delay_the_end(number: signal.Signals | None) -> None:
    with running() as wire:
        asked = wire.ask("tools/call", name="create_call", arguments=placing())
        token = asked["result"]["structuredContent"]["confirmation"]["token"]
        arguments = placing(confirmation_token=token)
        placed = wire.ask("tools/call", name="create_call", arguments=arguments)
        uri = f"calls://call/{placed['result']['structuredContent']['call']['sid']}"
        told = wire.ask("subscriptions/listen", notifications={"resourceSubscriptions": [uri]})
        assert told["method"] == "notifications/subscriptions/acknowledged"
        assert told["params"]["notifications"] == {"resourceSubscriptions": [uri]}
        if number is not None:
            wire.process.send_signal(number)
        assert ended(wire)[0] == 0


@contextmanager
def unread() -> Generator[Wire]:
    """Start a server whose client stops reading after a response. It must end quietly."""
    with running() as wire:
        wire.ask("tools/list")
        assert wire.process.stdout
        assert wire.process.stderr
        wire.process.stdout.close()
        yield wire
        assert wire.process.wait(timeout=60) == 0
        assert not wire.process.stderr.read()


def test_a_client_that_closes_stdout_ends_the_server_quietly_with_status_0() -> None:
    with unread() as wire:
        wire.send({"id": 2, "method": "tools/list", "params": {"_meta": ENVELOPE}})


def test_a_client_that_closes_stdout_but_keeps_writing_ends_the_server_quietly() -> None:
    with unread() as wire:
        with suppress(BrokenPipeError):
            while True:
                wire.send({"id": 2, "method": "tools/list", "params": {"_meta": ENVELOPE}})
        with suppress(BrokenPipeError):  # what was not sent
            assert wire.process.stdin
            wire.process.stdin.close()


def test_one_socket_can_be_both_stdin_and_stdout() -> None:
    ours, theirs = socket.socketpair()
    end = theirs.fileno()
    with (
        theirs,
        ours,
        ours.makefile("rb") as answers,
        subprocess.Popen(SANDBOX, stdin=end, stdout=end, stderr=subprocess.DEVNULL) as server,  # noqa: S603
    ):
        theirs.close()
        for number in range(3):
            request = {"jsonrpc": "2.0", "id": number, "method": "tools/list"}
            line = json.dumps({**request, "params": {"_meta": ENVELOPE}}) + "\n"
            ours.sendall(line.encode())
            assert json.loads(answers.readline())["id"] == number
        ours.shutdown(socket.SHUT_WR)
        assert server.wait(timeout=60) == 0


def test_a_response_has_the_id_of_its_request() -> None:
    with running() as wire:
        for name in (10**30, -(2**63) - 1, "", "ü\u2028"):
            wire.send({"id": name, "method": "tools/list", "params": {"_meta": ENVELOPE}})
            assert wire.read()["id"] == name


def test_empty_input_ends_the_server_quietly_with_status_0() -> None:
    with running() as wire:
        assert ended(wire) == (0, "", "")


def test_bare_calls_mcp_and_python_m_serve_on_stdio() -> None:
    with running(sys.executable, "-m", "calls_mcp") as wire:
        status, out, err = ended(wire)
    assert (status, out) == (2, "")
    assert "TWILIO_ACCOUNT_SID" in err
    assert "add --sandbox to the command" in err
    assert "Traceback" not in err


@pytest.mark.requirement("42")
def test_stdout_carries_only_the_protocol() -> None:
    with running() as wire:
        answer = wire.ask("tools/call", name="fetch_call", arguments={"sid": "nonsense"})
        assert answer["result"]["isError"] is True
        wire.send({"id": 2, "method": "no/such/method", "params": {"_meta": ENVELOPE}})
        assert wire.read()["error"]["code"] == -32601
        assert ended(wire)[:2] == (0, "")


@pytest.mark.requirement("32", "35")
def test_invalid_json_values_are_refused_and_do_not_end_the_server() -> None:
    numbers = ("NaN", "Infinity", "-Infinity", "1e400", "9" * 5000)
    invalid = [("list_calls", f'{{"limit": {number}}}') for number in numbers]
    invalid.append(("create_call", json.dumps(placing(call_reason="\ud83d"))))
    meta = json.dumps(ENVELOPE)
    with running() as wire:
        assert wire.process.stdin
        for tool, arguments in invalid:
            params = f'{{"name": "{tool}", "arguments": {arguments}, "_meta": {meta}}}'
            line = f'{{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {params}}}\n'
            wire.process.stdin.write(line)
            wire.send({"id": "last", "method": "tools/list", "params": {"_meta": ENVELOPE}})
            while (told := wire.read()).get("id") != "last":
                outcome = told.get("result", {}).get("structuredContent", {"outcome": "error"})
                assert outcome["outcome"] == "error"
        status, _, err = ended(wire)
    assert status == 0
    assert "Traceback" not in err


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("user", [User(), None], ids=["can ask", "can not ask"])
async def test_clients_of_both_protocol_versions_can_use_all_tools(
    era: Era, user: User | None
) -> None:
    server = StdioServerParameters(command=SANDBOX[0], args=SANDBOX[1:])
    async with Client(server, mode=era, elicitation_callback=user) as client:
        agent = Agent(client)

        async def act(tool: str, **arguments: object) -> dict[str, Any]:
            call = agent.call if user else agent.confirm
            return await call(tool, **arguments)

        sid = (await act("create_call", **placing()))["call"]["sid"]
        assert (await agent.call("fetch_call", sid=sid))["call"]["live"] is True
        assert sid in {call["sid"] for call in (await agent.call("list_calls"))["calls"]}
        assert (await act("update_call", sid=sid, status="completed"))["call"]["live"] is False
        assert (await act("delete_call", sid=sid))["deleted"] == sid
