"""`calls-mcp demo`: use the five tools with an MCP client, the server and the emulator."""

import json
import shlex
import shutil
import textwrap
from argparse import ArgumentParser, Namespace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import anyio
import anyio.to_thread
from mcp import Client
from mcp.client import ClientRequestContext
from mcp_types import ElicitRequestParams, ElicitResult, TextContent

from calls_mcp.audit.verification import describe, verify
from calls_mcp.cli.clients.server_command import launch_command
from calls_mcp.cli.terminal import Colour, painted, say
from calls_mcp.emulator import (
    DEFAULT_ACCOUNT,
    OWN_NUMBERS,
    Emulator,
    LoggedRequest,
    accelerated,
    seed_history,
)
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.service.sandbox import access_to
from calls_mcp.settings import Settings

_SPEED = 6
_PAST_CALLS = 12
_WIDTH = 96
_GUEST = "+15005550205"  # talks for an hour unless somebody hangs up
_CALLER = OWN_NUMBERS[0]
_TWIML = "<Response><Say>Your table is ready.</Say></Response>"


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments: it has none."""
    parser.set_defaults(run=run)


def run(_options: Namespace) -> int:
    """Print the walk to stdout, which takes some seconds. Return the exit status."""
    anyio.run(_demo)
    return 0


async def _demo() -> None:
    user = _User()
    with TemporaryDirectory() as directory:
        record = Path(directory) / "audit.db"
        await _run_demo(user, record)
        _heading("What the audit log says")
        report = await anyio.to_thread.run_sync(verify, record)
        for line in describe(report):
            _say(line, "  ")
    _say("Now try it with your own agent:")
    _say(f"{_program()} serve --sandbox", "  ")


def _program() -> str:
    """Return the command by which this user's shell finds us."""
    if shutil.which("calls-mcp"):
        return "calls-mcp"
    found = launch_command()
    return shlex.join((found.command, *found.args))


async def _run_demo(user: "_User", record: Path) -> None:
    # Not load_settings(), so that the environment changes nothing.
    settings = Settings.model_validate(
        {"CALLS_MCP_AUDIT_DATABASE": record, "CALLS_MCP_STATE_URL": "memory:"}
    )
    async with Emulator(port=None, clock=accelerated(_SPEED)) as emulator:
        seed_history(emulator.calls, 7, _PAST_CALLS, emulator.clock())
        async with (
            Runtime(settings, access_to(emulator, settings)) as runtime,
            Client(build_server(runtime), elicitation_callback=user.answer) as client,
        ):
            _say(f"An agent speaks MCP {client.protocol_version} to calls-mcp, which calls an")
            _say("emulator of Twilio's Calls API, whose clock is six times as fast as yours.")
            await _walk(_Agent(client), user)
        _heading("What reached the API")
        for request, repeats in groupby(map(_shown, emulator.requests)):
            count = len([*repeats])
            _say(f"{request} (x {count})" if count > 1 else request, "  ")
    _say("The bad call and the declined one are not among them.")


async def _walk(agent: "_Agent", user: "_User") -> None:
    _heading("Find the latest calls")
    await agent.call("list_calls", limit=3)

    _heading("A bad call: nothing is sent, and every fault is told at once")
    await agent.call("create_call", To="+1 500 555 0205", **{"from": _CALLER}, timeout="30")

    _heading("Place a call: the user is asked")
    user.says_yes = True
    place = {"to": _GUEST, "from": _CALLER, "twiml": _TWIML, "timeout": 30}
    sid = (await agent.call("create_call", **place))["call"]["sid"]

    _heading("Follow it")
    await agent.follow(sid, until="in-progress")

    _heading("End it: the user is asked, and says no")
    user.says_yes = False
    await agent.call("update_call", sid=sid, status="completed")

    _heading("End it: the user is asked again, and says yes")
    user.says_yes = True
    await agent.call("update_call", sid=sid, status="completed")

    _heading("Delete its record")
    await agent.call("delete_call", sid=sid)
    await agent.call("fetch_call", sid=sid)


def _shown(entry: LoggedRequest) -> str:
    path = entry.path.removeprefix(f"/2010-04-01/Accounts/{DEFAULT_ACCOUNT.sid}")
    query = f"?{entry.query}" if entry.query else ""
    form = " ".join(f"{name}={value}" for name, value in entry.form)
    return f"{entry.status} {entry.method} …{path}{query} {form}".rstrip()


class _User:
    """Answers the server's questions."""

    says_yes = False

    async def answer(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        del context
        _tell("asks", params.message, "yellow")
        _tell("user", "yes" if self.says_yes else "no", "green" if self.says_yes else "red")
        if not self.says_yes:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content={"approve": True})


class _Agent:
    """Calls tools, and prints what it sent and what came back."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        shown = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in arguments.items())
        _tell("agent", f"{tool}({shown})", "cyan")
        result = await self._client.call_tool(tool, arguments)
        text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
        _tell("error" if result.is_error else "answer", text, "red" if result.is_error else "plain")
        return cast("dict[str, Any]", result.structured_content)

    async def follow(self, sid: str, until: str) -> None:
        """Fetch the call again and again, and print each change of status."""
        status = ""
        while status != until:
            arguments: dict[str, Any] = {"sid": sid}
            result = await self._client.call_tool("fetch_call", arguments)
            latest = cast("dict[str, Any]", result.structured_content)["call"]["status"]
            if latest != status:
                _tell("agent", f'fetch_call(sid="{sid}")', "cyan")
                _tell("answer", f"{latest}", "plain")
            status = latest
            await anyio.sleep(0.1)


def _heading(text: str) -> None:
    _say(f"\n{painted(text, 'bold')}")


def _tell(who: str, text: str, colour: Colour) -> None:
    label = painted(f"{who:>6} ", colour)
    lines = [part for line in text.splitlines() for part in _wrapped(line)]
    _say(label + lines[0])
    for line in lines[1:]:
        _say(line, " " * 7)


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, _WIDTH, subsequent_indent="  ", break_on_hyphens=False) or [""]


def _say(text: str, indent: str = "") -> None:
    say(f"{indent}{text}")
