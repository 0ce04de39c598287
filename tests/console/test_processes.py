"""An agent's client, server and console as processes, and the operator's browsers: end to end."""

import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import Implementation
from playwright.async_api import Browser

from calls_mcp.audit.verification import verify
from calls_mcp.emulator import DEFAULT_ACCOUNT, Emulator
from tests.console.window import Window, open_window
from tests.guard.test_rules import policy
from tests.records import records_in
from tests.rig import ACCOUNT, Agent, placing, structured
from tests.upstream import Exchange, Upstream, answer, hang, page

pytestmark = [pytest.mark.process, pytest.mark.anyio]

RULES = '[confirm]\nplace = "operator"\n[caps]\nsame_number_seconds = 0\n'
COMMAND = (sys.executable, "-m", "calls_mcp")
LINK = re.compile(r"http://127\.0\.0\.1:[0-9]+/sign-in\?link=\S+")


@dataclass
class Server:
    """A server process, and the client of the agent that started it."""

    agent: Agent
    pid: int
    waits: anyio.Event = field(default_factory=anyio.Event)

    async def ask(self, **arguments: object) -> str:
        """Ask for a call; the approval that it waits for."""
        outcome = await self.agent.call("create_call", **placing(**arguments))
        assert outcome["outcome"] == "awaiting_operator"
        approval: str = outcome["confirmation"]["approval"]
        return approval

    async def repeat(self, **arguments: object) -> dict[str, Any]:
        """Call again, and wait for the operator; `waits` is set while it does."""

        async def note(progress: float, total: float | None, message: str | None) -> None:
            del progress, total, message
            self.waits.set()

        client = self.agent.client
        result = await client.call_tool("create_call", placing(**arguments), progress_callback=note)
        return structured(result)

    async def kill(self) -> None:
        """End the server as a failure of its machine would."""
        os.kill(self.pid, signal.SIGKILL)


@dataclass
class Firm:
    """What the processes share: the API, the store, the record, the rules."""

    folder: Path
    base_url: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "TWILIO_ACCOUNT_SID": ACCOUNT,
            "TWILIO_AUTH_TOKEN": DEFAULT_ACCOUNT.auth_token,
            "CALLS_MCP_API_BASE_URL": self.base_url,
            "CALLS_MCP_STATE_URL": f"sqlite:///{self.folder}/state.db",
            "CALLS_MCP_AUDIT_DATABASE": str(self.record),
            "CALLS_MCP_POLICY": str(policy(self.folder, RULES)),
        }

    @property
    def record(self) -> Path:
        return self.folder / "audit.db"

    def decisions(self, approval: str) -> list[tuple[str, str | None]]:
        """What the record has of an approval, and who decided."""
        records = records_in(self.record)
        return [
            (each["decision"], each.get("decided_by"))
            for each in records
            if each.get("approval_id") == approval and "decision" in each
        ]

    @asynccontextmanager
    async def server(self, **settings: str) -> AsyncGenerator[Server]:
        """A server of an agent's own, over stdio."""
        pid = self.folder / "pid"
        parameters = StdioServerParameters(
            command="/bin/sh",
            args=["-c", 'echo $$ > "$0"; exec "$@"', str(pid), *COMMAND, "serve"],
            env={**self.environment, **settings},
        )
        info = Implementation(name="agent", version="1")
        async with Client(parameters, client_info=info, cache=None) as client:
            yield Server(Agent(client), int(pid.read_text("utf-8")))

    @asynccontextmanager
    async def console(self) -> AsyncGenerator[str]:
        """A console; the link that it prints."""
        command = (*COMMAND, "console", "--port", "0")
        environment: Mapping[str, str] = {**os.environ, **self.environment, "LOGNAME": "ann"}
        process = await anyio.open_process(command, env=environment, stderr=None)
        async with process:
            assert process.stdout
            told = ""
            while not (found := LINK.search(told)) or told[-1] != "\n":
                told += (await process.stdout.receive()).decode()
            try:
                yield found[0]
            finally:
                process.send_signal(signal.SIGTERM)


@dataclass
class Scene:
    """A firm on an emulator, its console, and Ann's window of it."""

    firm: Firm
    emulator: Emulator
    window: Window

    @property
    def sent(self) -> int:
        """How many changes reached the API."""
        return sum(entry.method != "GET" for entry in self.emulator.requests)


@pytest.fixture(scope="module")
async def shared(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Scene]:
    folder = tmp_path_factory.mktemp("firm")
    async with Emulator() as emulator:
        firm = Firm(folder, emulator.base_url)
        async with firm.console() as link, open_window(chromium, link) as window:
            yield Scene(firm, emulator, window)


@pytest.fixture
async def scene(shared: Scene) -> AsyncGenerator[Scene]:
    """For one test: nothing waits, nothing was sent."""
    shared.emulator.reset()
    await shared.window.go("/approvals")
    await shared.window.sees("Nothing waits")
    yield shared
    assert verify(shared.firm.record).is_intact


async def test_an_agent_waits_while_the_operator_approves_or_denies_in_the_browser(
    scene: Scene,
) -> None:
    outcomes = list[dict[str, Any]]()

    async def repeat() -> None:
        outcomes.append(await server.repeat())

    async with scene.firm.server() as server:
        approval = await server.ask()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(repeat)
            await server.waits.wait()
            assert scene.sent == 0
            await scene.window.approve()
            await scene.window.sees("Approved by ann")
        assert outcomes[0]["outcome"] == "done"
        assert scene.sent == 1
        decided = scene.firm.decisions(approval)
        assert decided == [("asked", None), ("approved", "ann"), ("allowed", "ann")]

        await scene.window.go(f"/calls/{outcomes[0]['call']['sid']}")
        for step in ("asked for", "approved", "Sent to the API for agent: place", "answer: done"):
            await scene.window.sees(step)

        await scene.window.go("/approvals")
        await server.ask()
        await scene.window.deny("not at night")
        await scene.window.sees("Denied by ann")
        denied = await server.repeat()
    assert denied["outcome"] == "declined"
    assert "not at night" in denied["reason"]
    assert scene.sent == 1


async def test_what_was_decided_outlives_the_server_and_needs_none(scene: Scene) -> None:
    async with scene.firm.server() as killed:
        await killed.ask()
        await scene.window.approve()
        await scene.window.sees("Approved by ann")
        await killed.kill()
    async with scene.firm.server() as server:
        assert scene.sent == 0
        assert (await server.repeat())["outcome"] == "done"
        assert scene.sent == 1
        await server.ask(time_limit=60)
        await server.kill()
    await scene.window.go("/approvals")  # of a console that is alone now
    await scene.window.deny("too late")
    await scene.window.sees("Denied by ann")
    assert scene.sent == 1


async def test_what_a_killed_server_was_sending_is_not_sent_again(scene: Scene) -> None:
    sending = anyio.Event()

    async def serve(exchange: Exchange) -> None:
        if exchange.request.method == "GET":
            return await answer(200, page())(exchange)
        sending.set()
        return await hang(exchange)

    async def repeat() -> None:
        with pytest.raises(MCPError):
            await killed.repeat()

    async with Upstream(serve) as upstream:
        firm = Firm(scene.firm.folder, upstream.base_url)
        async with firm.server() as killed:
            approval = await killed.ask()
            await scene.window.approve()
            await scene.window.sees("Approved by ann")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(repeat)
                await sending.wait()
                await killed.kill()
        async with firm.server(CALLS_MCP_DEADLINE="2") as server:
            told = await server.repeat()
            assert told["error"]["kind"] == "outcome_unknown"
            assert "Nothing new was sent" in told["error"]["message"]
            another = await server.ask()
            assert another != approval
            await scene.window.go(f"/approvals/{another}")
            await scene.window.sees("may have been placed")
            await scene.window.deny()
            await scene.window.sees("Denied by ann")
            assert (await server.repeat())["outcome"] == "declined"
        assert len(upstream.changes) == 1
