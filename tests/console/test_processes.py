"""End to end: server and console as processes, and the operator in Chromium."""

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
from tests.audit_records import records_in
from tests.console.window import Window, open_window
from tests.guard.test_policy import policy
from tests.harness import ACCOUNT, Agent, placing, structured
from tests.upstream import Exchange, Upstream, answer, hang, page

pytestmark = [pytest.mark.process, pytest.mark.anyio]

RULES = '[confirm]\nplace = "operator"\n[caps]\nsame_number_seconds = 0\n'
COMMAND = (sys.executable, "-m", "calls_mcp")
LINK = re.compile(r"http://127\.0\.0\.1:[0-9]+/sign-in\?link=\S+")


@dataclass
class Server:
    """A server process, and the MCP client of the agent that started it."""

    agent: Agent
    pid: int
    is_waiting: anyio.Event = field(default_factory=anyio.Event)

    async def request_call(self, **arguments: object) -> str:
        """Request a call. Return the id of the approval request."""
        outcome = await self.agent.call("create_call", **placing(**arguments))
        assert outcome["outcome"] == "awaiting_operator"
        approval: str = outcome["confirmation"]["approval"]
        return approval

    async def retry(self) -> dict[str, Any]:
        """Repeat the request and wait for the operator. Sets `is_waiting` meanwhile."""

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            del progress, total, message
            self.is_waiting.set()

        result = await self.agent.client.call_tool(
            "create_call", placing(), progress_callback=on_progress
        )
        return structured(result)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


@dataclass
class Deployment:
    """The settings that all processes share: API, store, audit log and policy."""

    folder: Path
    base_url: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "TWILIO_ACCOUNT_SID": ACCOUNT,
            "TWILIO_AUTH_TOKEN": DEFAULT_ACCOUNT.auth_token,
            "CALLS_MCP_API_BASE_URL": self.base_url,
            "CALLS_MCP_STATE_URL": f"sqlite:///{self.folder}/state.db",
            "CALLS_MCP_AUDIT_DATABASE": str(self.audit_database),
            "CALLS_MCP_POLICY": str(policy(self.folder, RULES)),
        }

    @property
    def audit_database(self) -> Path:
        return self.folder / "audit.db"

    def decisions(self, approval: str) -> list[tuple[str, str | None]]:
        """The decisions in the audit log about an approval request, and who made each."""
        records = records_in(self.audit_database)
        return [
            (each["decision"], each.get("decided_by"))
            for each in records
            if each.get("approval_id") == approval and "decision" in each
        ]

    @asynccontextmanager
    async def server(self, **settings: str) -> AsyncGenerator[Server]:
        """An agent with a server over stdio."""
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
        """Run a console. Yield the sign-in link that it prints."""
        command = (*COMMAND, "console", "--port", "0")
        environment: Mapping[str, str] = {**os.environ, **self.environment, "LOGNAME": "ann"}
        process = await anyio.open_process(command, env=environment, stderr=None)
        async with process:
            assert process.stdout
            output = ""
            while not (found := LINK.search(output)) or output[-1] != "\n":
                output += (await process.stdout.receive()).decode()
            try:
                yield found[0]
            finally:
                process.send_signal(signal.SIGTERM)


@dataclass
class Scene:
    """A deployment that uses an emulator, its console, and Ann's window."""

    deployment: Deployment
    emulator: Emulator
    window: Window

    @property
    def sent(self) -> int:
        """The number of changes that reached the API."""
        return sum(entry.method != "GET" for entry in self.emulator.requests)


@pytest.fixture(scope="module")
async def shared(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Scene]:
    folder = tmp_path_factory.mktemp("deployment")
    async with Emulator() as emulator:
        deployment = Deployment(folder, emulator.base_url)
        async with deployment.console() as link, open_window(chromium, link) as window:
            yield Scene(deployment, emulator, window)


@pytest.fixture
async def scene(shared: Scene) -> AsyncGenerator[Scene]:
    """The shared scene, without pending requests or sent changes."""
    shared.emulator.reset()
    await shared.window.goto("/approvals")
    await shared.window.expect_text("No pending approval requests.")
    yield shared
    assert verify(shared.deployment.audit_database).is_intact


async def test_an_agent_waits_while_the_operator_approves_or_denies(
    scene: Scene,
) -> None:
    outcomes = list[dict[str, Any]]()

    async def retry() -> None:
        outcomes.append(await server.retry())

    async with scene.deployment.server() as server:
        approval = await server.request_call()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(retry)
            await server.is_waiting.wait()
            assert scene.sent == 0
            await scene.window.approve()
        assert outcomes[0]["outcome"] == "done"
        assert scene.sent == 1
        decided = scene.deployment.decisions(approval)
        assert decided[:3] == [("asked", None), ("approved", "ann"), ("allowed", "ann")]

        await scene.window.goto(f"/calls/{outcomes[0]['call']['sid']}")
        for step in (
            "agent requested this call",
            "Call approved by ann",
            "Call request sent to the API",
            "Call request accepted",
        ):
            await scene.window.expect_text(step)

        await scene.window.goto("/approvals")
        await server.request_call()
        await scene.window.deny("not at night")
        denied = await server.retry()
    assert denied["outcome"] == "declined"
    assert "not at night" in denied["reason"]
    assert scene.sent == 1


async def test_an_approval_on_the_command_line_runs_the_change(scene: Scene) -> None:
    environment = {**os.environ, **scene.deployment.environment}
    async with scene.deployment.server() as server:
        approval = await server.request_call()
        command = [*COMMAND, "approvals", "approve", approval]
        told = (await anyio.run_process(command, env=environment)).stdout.decode()
        assert re.fullmatch(r"Approved\. (Running now\.\n)?Done \(CA[0-9a-f]{32}\)\.\n", told)
        assert scene.sent == 1
        server.kill()
    async with scene.deployment.server() as server:
        assert (await server.retry())["outcome"] == "done"
    assert scene.sent == 1


async def test_decisions_outlive_the_server_and_work_without_one(scene: Scene) -> None:
    async with scene.deployment.server() as killed:
        await killed.request_call()
        killed.kill()
    await scene.window.goto("/approvals")
    await scene.window.approve()
    async with scene.deployment.server() as server:
        assert scene.sent == 0
        assert (await server.retry())["outcome"] == "done"
        assert scene.sent == 1
        await server.request_call(time_limit=60)
        server.kill()
    await scene.window.goto("/approvals")  # no server is running now
    await scene.window.deny("too late")
    assert scene.sent == 1


async def test_a_change_that_a_killed_server_was_sending_is_never_sent_again(scene: Scene) -> None:
    sending = anyio.Event()

    async def serve(exchange: Exchange) -> None:
        if exchange.request.method == "GET":
            return await answer(200, page())(exchange)
        sending.set()
        return await hang(exchange)

    async def retry() -> None:
        with pytest.raises(MCPError):
            await killed.retry()

    async with Upstream(serve) as upstream:
        deployment = Deployment(scene.deployment.folder, upstream.base_url)
        async with deployment.server() as killed:
            approval = await killed.request_call()
            await scene.window.approve()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(retry)
                await sending.wait()
                killed.kill()
        async with deployment.server(CALLS_MCP_DEADLINE="2") as server:
            outcome = await server.retry()
            assert outcome["error"]["kind"] == "outcome_unknown"
            assert "Nothing new was sent" in outcome["error"]["message"]
            another = await server.request_call()
            assert another != approval
            await scene.window.goto(f"/approvals/{another}")
            await scene.window.expect_text("may have been placed")
            await scene.window.deny()
            assert (await server.retry())["outcome"] == "declined"
        assert len(upstream.changes) == 1
