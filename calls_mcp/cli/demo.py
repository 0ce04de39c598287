"""`calls-mcp demo`: use the five tools with an MCP client, the server and the emulator."""

import json
import shlex
import shutil
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import anyio
import anyio.to_thread
from mcp import Client
from mcp.client import ClientRequestContext
from mcp_types import ElicitRequestParams, ElicitResult, TextContent, TextResourceContents

from calls_mcp.audit.verification import describe, verify
from calls_mcp.cli.client_files import CLIENTS
from calls_mcp.cli.launch_command import launch_command
from calls_mcp.cli.terminal import Color, painted, say
from calls_mcp.emulator import (
    DEFAULT_ACCOUNT,
    OWN_NUMBERS,
    Emulator,
    LoggedRequest,
    Scenario,
    Script,
    accelerated,
    past_calls,
)
from calls_mcp.emulator.scenario import Reaction
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime, access_to
from calls_mcp.settings import Settings

_EPILOG = """\
It takes a few seconds, needs no account, and ignores your settings. No phone rings.

example:
  calls-mcp demo
"""
_SPEED = 6  # times as fast as real time
_PAST_CALLS = 1
_GOODBYE = 10  # seconds
_WIDEST = 104  # characters of a line
_LABEL = 8
_GUEST = "+12025550123"
_CONFIRMS = Script(reactions=[Reaction(hears="at eight?", say="Yes, I can.")])
_UNTIL_THE_REPLY = 8  # seconds after the answer
_CALLER = OWN_NUMBERS[0]
_MESSAGE = "<Say>Your table is ready. Can you be here at eight?</Say>"
_TWIML = f'<Response>{_MESSAGE}<Pause length="60"/></Response>'


def configure(parser: ArgumentParser) -> None:
    """Add nothing, because the command has no arguments."""
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(_options: Namespace) -> int:
    """Print the demo to stdout. Return the exit status."""
    anyio.run(_demo)
    return 0


async def _demo() -> None:
    _say("An AI agent makes a phone call: an MCP client, this server, and an emulator of")
    _say("Twilio's Calls API. No phone rings.")
    with TemporaryDirectory() as directory:
        audit_log = Path(directory) / "audit.db"
        await _run_demo(_User(), audit_log)
        _heading("The audit log is intact")
        report = await anyio.to_thread.run_sync(verify, audit_log)
        for line in describe(report)[:2]:
            _say(line, "  ")
    for line in _next_step():
        _say(line)


def _next_step() -> Iterator[str]:
    """Yield what to do next: for a client that is installed here, if there is one."""
    installed = next((name for name, client in CLIENTS.items() if client.is_installed()), None)
    program = _program()
    if installed:
        _heading(f"Next: try it in {CLIENTS[installed].title}")
        yield f"  {program} client-config {installed} --sandbox --write"
        return
    _heading("Next: try it in your own MCP client")
    yield f"  {program} client-config --help   shows how to configure a client"
    yield f"  {program} serve --sandbox        is the command that a client runs"


def _program() -> str:
    """Return the command that starts this program in the user's shell."""
    if shutil.which("calls-mcp"):
        return "calls-mcp"
    found = launch_command()
    return shlex.join((found.command, *found.args))


async def _run_demo(user: "_User", audit_log: Path) -> None:
    # Not load_settings(), so that the environment changes nothing.
    settings = Settings.model_validate(
        {"CALLS_MCP_AUDIT_DATABASE": audit_log, "CALLS_MCP_STATE_URL": "memory:"}
    )
    scenario = Scenario({_GUEST: _CONFIRMS})
    async with Emulator(port=None, clock=accelerated(_SPEED), scenario=scenario) as emulator:
        emulator.calls.add(*past_calls(7, _PAST_CALLS, emulator.clock()))
        async with (
            Runtime(settings, access_to(emulator, settings), clock=emulator.now) as runtime,
            Client(build_server(runtime), elicitation_callback=user.answer) as client,
        ):
            transcript = await _walk(_Agent(client), user, emulator)
        _heading("Transcript")
        for line in transcript:
            _say(line, "  ")
        _heading("What reached the API")
        for request, repeats in groupby(map(_shown, emulator.requests)):
            count = len([*repeats])
            _say(f"{request} ({count} times)" if count > 1 else request, "  ")
    _say("Neither the call with mistakes nor the hang-up that you declined was sent.", "  ")


async def _walk(agent: "_Agent", user: "_User", emulator: Emulator) -> Sequence[str]:
    """Let the agent call someone. Return the transcript of the call."""
    _heading("1. The agent wants to place a call. The server asks you first")
    place = {"to": _GUEST, "from": _CALLER, "twiml": _TWIML, "timeout": 30}
    sid = (await agent.call("create_call", **place))["call"]["sid"]

    _heading("2. The agent waits until somebody answers")
    await agent.call("fetch_call", sid=sid, wait_until="answered")

    _heading("3. The agent makes mistakes. Nothing is sent, and it learns what to fix")
    await agent.call("create_call", To="+1 202 555 0123", **{"from": _CALLER}, timeout="30")

    _heading("4. The callee replies. The agent sees it")
    await emulator.advance(_UNTIL_THE_REPLY)
    await agent.read(f"calls://call/{sid}")

    _heading("5. The agent wants to hang up. You say no")
    user.says_yes = False
    await agent.call("update_call", sid=sid, status="completed")

    _heading("6. The agent wants to say goodbye first. You say yes")
    user.says_yes = True
    await agent.call("update_call", sid=sid, say="Thank you. See you at eight. Goodbye.")
    await emulator.advance(_GOODBYE)
    await agent.call("list_calls", limit=5)
    transcript = emulator.transcript_lines(sid)

    _heading("7. The agent deletes the record of its call. You say yes")
    await agent.call("delete_call", sid=sid)
    return transcript


def _shown(entry: LoggedRequest) -> str:
    path = entry.path.removeprefix(f"/2010-04-01/Accounts/{DEFAULT_ACCOUNT.sid}")
    query = f"?{entry.query}" if entry.query else ""
    form = " ".join(f"{name}={value}" for name, value in entry.form)
    return f"{entry.status} {entry.method} …{path}{query} {form}".rstrip()


class _User:
    """Answers the server's questions."""

    says_yes = True

    async def answer(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        del context
        _tell("server", params.message, "yellow")
        _tell("you", "yes" if self.says_yes else "no", "green" if self.says_yes else "red")
        if not self.says_yes:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content={"approve": True})


class _Agent:
    """Calls tools, and prints the arguments and the results."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        shown = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in arguments.items())
        _tell("agent", f"{tool}({shown})", "cyan")
        result = await self._client.call_tool(tool, arguments)
        text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
        _tell("error" if result.is_error else "result", text, "red" if result.is_error else "plain")
        return cast("dict[str, Any]", result.structured_content)

    async def read(self, uri: str) -> None:
        """Read the resource of a call, and print the end of its transcript."""
        _tell("agent", f"reads {uri}", "cyan")
        (contents,) = (await self._client.read_resource(uri)).contents
        call = json.loads(cast("TextResourceContents", contents).text)
        _tell("result", f"{call['call']['status']} … {call['transcript'][-1]}", "plain")


def _heading(text: str) -> None:
    _say(f"\n{painted(text, 'bold')}")


def _tell(who: str, text: str, color: Color) -> None:
    label = painted(f"{who:>{_LABEL - 1}} ", color)
    lines = [part for line in text.splitlines() for part in _wrapped(line)]
    _say(label + lines[0])
    for line in lines[1:]:
        _say(line, " " * _LABEL)


def _wrapped(line: str) -> list[str]:
    columns = shutil.get_terminal_size((_WIDEST, 0)).columns
    width = max(_LABEL, min(_WIDEST, columns) - _LABEL)
    return textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False) or [""]


def _say(text: str, indent: str = "") -> None:
    say(f"{indent}{text}")
