"""SIGTERM: new requests are rejected, those in progress are finished, and the process exits."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp.client import ClientRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestParams, ElicitResult

from calls_mcp.guard.operator_decisions import open_approvals
from calls_mcp.settings import load_settings
from tests.audit_records import records_in
from tests.harness import ERAS, PERMISSIVE, Era, User, placing
from tests.http.replica import Replica, replica
from tests.http.service import Wait, in_session
from tests.process import environment
from tests.upstream import Upstream

pytestmark = [pytest.mark.process, pytest.mark.anyio]

BROKEN_OFF = (MCPError, ExceptionGroup, httpx2.HTTPError)
GRACE = "30"  # seconds; no test should need as long


@dataclass
class Scene:
    """A server process, backed by a slow stub."""

    gate: Wait
    upstream: Upstream
    server: Replica
    audit: Path

    @property
    def recorded(self) -> list[dict[str, object]]:
        """Return the records in the audit log."""
        return records_in(self.audit)


@asynccontextmanager
async def scene(folder: Path, grace: str = GRACE, confirm: str = "none") -> AsyncGenerator[Scene]:
    gate, audit = Wait(), folder / "audit.db"
    async with Upstream(gate) as upstream:
        variables = environment(
            upstream.base_url,
            CALLS_MCP_CONFIRM=confirm,
            CALLS_MCP_POLICY=str(PERMISSIVE),
            CALLS_MCP_HTTP_GRACE=grace,
            CALLS_MCP_STATE_URL=f"sqlite:///{folder}/state.db",
            CALLS_MCP_AUDIT_DATABASE=str(audit),
        )
        async with replica(variables) as server:
            yield Scene(gate, upstream, server, audit)


async def test_an_idle_server_rejects_requests_briefly_and_exits_with_status_0(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as here:
        here.server.terminate()
        await _drains(here.server)
        refused = await here.server.ask("tools/call", name="list_calls", arguments={})
        assert refused.status_code == 503
        assert await here.server.process.wait() == 0


@pytest.mark.parametrize("mode", ERAS)
async def test_a_call_in_progress_is_finished_and_new_ones_are_rejected(
    mode: Era, tmp_path: Path
) -> None:
    outcomes: list[object] = []
    async with scene(tmp_path) as here, here.server.connect(mode) as agent:
        await agent.client.list_tools()  # otherwise the client lists them after the call
        async with anyio.create_task_group() as tasks:

            async def place() -> None:
                outcomes.append((await agent.call("create_call", **placing()))["outcome"])

            tasks.start_soon(place)
            await here.gate.asked.wait()
            here.server.terminate()
            await _drains(here.server)
            refused = await here.server.ask("tools/call", name="list_calls", arguments={})
            assert refused.status_code == 503
            assert refused.headers["Retry-After"]
            assert (await here.server.open_session()).status_code == 503
            listed = await here.server.ask("tools/list")  # still answered: it starts nothing
            assert (listed.status_code, listed.headers["connection"]) == (200, "close")
            assert (await here.server.get("/healthz")).status_code == 200
            here.gate.answered.set()
        assert outcomes == ["done"]
        assert await here.server.process.wait() == 0
    assert len(here.upstream.changes) == 1
    assert here.recorded[-1]["outcome"] == "done"


async def test_an_approved_call_in_progress_is_finished_without_a_request(tmp_path: Path) -> None:
    settings = load_settings(
        {
            "calls_mcp_state_url": f"sqlite:///{tmp_path}/state.db",
            "calls_mcp_audit_database": tmp_path / "audit.db",
        }
    )
    async with scene(tmp_path, confirm="operator") as here:
        async with here.server.connect() as agent:
            await agent.call("create_call", **placing())
        async with open_approvals(settings) as approvals:
            (request,) = await approvals.pending()
            await approvals.decide(request, approve=True, by="bob")
        await here.gate.asked.wait()
        here.server.terminate()
        await _drains(here.server)
        here.gate.answered.set()
        assert await here.server.process.wait() == 0
    assert len(here.upstream.changes) == 1
    assert here.recorded[-1]["outcome"] == "done"


@pytest.mark.parametrize("mode", ERAS)
async def test_a_call_that_takes_too_long_is_recorded_as_unknown(mode: Era, tmp_path: Path) -> None:
    async with scene(tmp_path, grace="2") as here, anyio.create_task_group() as tasks:
        tasks.start_soon(_place_in_vain, here.server, mode)
        await here.gate.asked.wait()
        here.server.terminate()
        assert await here.server.process.wait() == 0
    assert len(here.upstream.changes) == 1
    begun, ended = here.recorded
    assert (begun["decision"], begun["tool"]) == ("allowed", "create_call")
    assert (ended["id"], ended["error_kind"]) == (begun["id"], "outcome_unknown")


async def test_a_second_signal_cancels_requests_in_progress(tmp_path: Path) -> None:
    statuses: list[int] = []

    async def read(server: Replica) -> None:
        asked = await server.ask("tools/call", name="list_calls", arguments={})
        statuses.append(asked.status_code)

    async with scene(tmp_path) as here:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, here.server)
            await here.gate.asked.wait()
            here.server.terminate()
            await _drains(here.server)
            here.server.terminate()
        assert statuses == [504]
        assert await here.server.process.wait() == 0


async def test_an_open_question_can_still_be_answered(tmp_path: Path) -> None:
    async with scene(tmp_path, confirm="all") as here:
        here.gate.answered.set()
        user = _Signalling(server=here.server)
        async with here.server.connect("legacy", user) as agent:
            await agent.client.list_tools()
            outcome = await agent.call("create_call", **placing())
            assert outcome["outcome"] == "done"
        assert len(user.asked) == 1
        assert await here.server.process.wait() == 0


async def test_a_stream_does_not_delay_the_shutdown(tmp_path: Path) -> None:
    async with scene(tmp_path) as here, here.server.http() as http:
        headers = in_session(await here.server.open_session())
        async with http.stream("GET", here.server.url, headers=headers) as stream:
            here.server.terminate()
            assert [line async for line in stream.aiter_lines() if line] == []
        assert await here.server.process.wait() == 0
        assert "".join(here.server.stderr).count("\n") == 2  # of its start and its shutdown


@dataclass
class _Signalling(User):
    """A user who accepts after the shutdown has begun."""

    server: Replica = field(kw_only=True)

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        self.server.terminate()
        await _drains(self.server)
        return await super().__call__(context, params)


async def _drains(server: Replica) -> None:
    """Wait until the shutdown has begun."""
    while (await server.get("/readyz")).status_code != 503:
        pass


async def _place_in_vain(server: Replica, mode: Era) -> None:
    with suppress(*BROKEN_OFF):
        async with server.connect(mode) as agent:
            await agent.call("create_call", **placing())
