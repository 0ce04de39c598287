"""SIGTERM on stdio: a change that was sent is finished or recorded, and the process ends."""

from pathlib import Path

import anyio
import pytest

from tests.audit_records import records_in
from tests.harness import PERMISSIVE, placing
from tests.http.service import Wait
from tests.process import Server, environment, started
from tests.upstream import Upstream

pytestmark = [pytest.mark.process, pytest.mark.anyio]


async def place_and_terminate(folder: Path, *, answer: bool) -> list[dict[str, object]]:
    """End a server whose change was sent; return the audit records."""
    gate, audit = Wait(), folder / "audit.db"
    async with Upstream(gate) as upstream:
        variables = environment(
            upstream.base_url,
            CALLS_MCP_CONFIRM="none",
            CALLS_MCP_POLICY=str(PERMISSIVE),
            CALLS_MCP_AUDIT_DATABASE=str(audit),
        )
        async with started(variables) as server:
            await _place(server)
            await gate.asked.wait()
            server.process.terminate()
            if answer:
                gate.answered.set()
            with anyio.fail_after(20):
                assert await server.process.wait() == 0
        assert len(upstream.changes) == 1
    return records_in(audit)


async def test_a_change_that_is_not_answered_in_time_is_recorded_as_unknown(tmp_path: Path) -> None:
    begun, ended = await place_and_terminate(tmp_path, answer=False)
    assert (begun["decision"], begun["tool"]) == ("allowed", "create_call")
    assert (ended["id"], ended["error_kind"]) == (begun["id"], "outcome_unknown")


async def test_a_change_that_is_answered_in_time_is_recorded_as_done(tmp_path: Path) -> None:
    begun, ended = await place_and_terminate(tmp_path, answer=True)
    assert (ended["id"], ended["outcome"]) == (begun["id"], "done")


async def _place(server: Server) -> None:
    await server.ask("server/discover")
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    await server.request("tools/call", name="create_call", arguments=placing(), _meta=meta)
