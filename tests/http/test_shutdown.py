"""SIGTERM: nothing new begins, what is under way is finished or recorded, and the process ends."""

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

from tests.audit_records import records_in
from tests.harness import ERAS, PERMISSIVE, Era, User, placing
from tests.http.replica import Replica, replica
from tests.http.service import Wait, in_session
from tests.process import environment
from tests.upstream import Upstream

pytestmark = [pytest.mark.process, pytest.mark.anyio]

BROKEN_OFF = (MCPError, ExceptionGroup, httpx2.HTTPError)
GRACE = "30"  # seconds, which nothing here should need


@dataclass
class Scene:
    """A server process on a stand-in that waits."""

    gate: Wait
    upstream: Upstream
    server: Replica
    audit: Path

    @property
    def recorded(self) -> list[dict[str, object]]:
        """The record of changes, line by line."""
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
            CALLS_MCP_AUDIT_DATABASE=str(audit),
        )
        async with replica(variables) as server:
            yield Scene(gate, upstream, server, audit)


async def test_an_idle_server_refuses_for_a_moment_whoever_comes_and_ends_with_status_0(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as here:
        here.server.terminate()
        await _drains(here.server)
        refused = await here.server.ask("tools/call", name="list_calls", arguments={})
        assert refused.status_code == 503
        assert await here.server.process.wait() == 0


@pytest.mark.parametrize("mode", ERAS)
async def test_a_call_under_way_is_finished_and_nothing_new_begins(
    mode: Era, tmp_path: Path
) -> None:
    outcomes: list[object] = []
    async with scene(tmp_path) as here, here.server.connect(mode) as agent:
        await agent.client.list_tools()  # what a result is held to, which the end comes before
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
            listed = await here.server.ask("tools/list")  # which begins nothing
            assert (listed.status_code, listed.headers["connection"]) == (200, "close")
            assert (await here.server.get("/healthz")).status_code == 200
            here.gate.answered.set()
        assert outcomes == ["done"]
        assert await here.server.process.wait() == 0
    assert len(here.upstream.changes) == 1
    assert here.recorded[-1]["outcome"] == "done"


@pytest.mark.parametrize("mode", ERAS)
async def test_a_call_that_takes_too_long_is_recorded_as_unknown_before_the_end(
    mode: Era, tmp_path: Path
) -> None:
    async with scene(tmp_path, grace="2") as here, anyio.create_task_group() as tasks:
        tasks.start_soon(_place_in_vain, here.server, mode)
        await here.gate.asked.wait()
        here.server.terminate()
        assert await here.server.process.wait() == 0
    assert len(here.upstream.changes) == 1
    begun, ended = here.recorded
    assert (begun["decision"], begun["tool"]) == ("allowed", "create_call")
    assert (ended["id"], ended["error_kind"]) == (begun["id"], "outcome_unknown")


async def test_at_a_second_signal_what_is_under_way_is_broken_off(tmp_path: Path) -> None:
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


async def test_a_question_under_way_may_still_be_answered(tmp_path: Path) -> None:
    async with scene(tmp_path, confirm="all") as here:
        here.gate.answered.set()
        user = _Signalling(server=here.server)
        async with here.server.connect("legacy", user) as agent:
            await agent.client.list_tools()
            outcome = await agent.call("create_call", **placing())
            assert outcome["outcome"] == "done"
        assert len(user.asked) == 1
        assert await here.server.process.wait() == 0


async def test_a_stream_that_only_listens_delays_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as here, here.server.http() as http:
        headers = in_session(await here.server.open_session())
        async with http.stream("GET", here.server.url, headers=headers) as stream:
            here.server.terminate()
            assert [line async for line in stream.aiter_lines() if line] == []
        assert await here.server.process.wait() == 0
        assert "".join(here.server.told).count("\n") == 2  # where it serves and that it ends


@dataclass
class _Signalling(User):
    """Somebody who says yes after the server was told to end."""

    server: Replica = field(kw_only=True)

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        self.server.terminate()
        await _drains(self.server)
        return await super().__call__(context, params)


async def _drains(server: Replica) -> None:
    """Wait until it tells that it is about to end."""
    while (await server.get("/readyz")).status_code != 503:
        pass


async def _place_in_vain(server: Replica, mode: Era) -> None:
    with suppress(*BROKEN_OFF):
        async with server.connect(mode) as agent:
            await agent.call("create_call", **placing())
