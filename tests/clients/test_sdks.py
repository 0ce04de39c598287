"""Clients that show a program what the server said: the TypeScript SDK, FastMCP, the Inspector."""

from pathlib import Path

import pytest

from tests.clients.conversation import Era, conversing, needs_client
from tests.clients.inspector import Inspector
from tests.clients.walk import GUEST, PLACE, blunder, refuse, sids, token, walk

pytestmark = [pytest.mark.anyio, pytest.mark.clients]

LAST_LEGACY, MODERN = "2025-11-25", "2026-07-28"
TOOLS = {"create_call", "fetch_call", "list_calls", "update_call", "delete_call"}

TYPESCRIPT: list[tuple[str, Era]] = [
    ("typescript-1", "legacy"),
    ("typescript-2", "legacy"),
    ("typescript-2", "auto"),
]
FASTMCP: list[tuple[str, Era]] = [("fastmcp", "legacy"), ("fastmcp", "auto")]
ERAS: list[Era] = ["legacy", "auto"]


def _where_installed(clients: list[tuple[str, Era]]) -> pytest.MarkDecorator:
    params = [pytest.param(name, era, marks=needs_client(name)) for name, era in clients]
    return pytest.mark.parametrize(("name", "era"), params)


each = _where_installed(TYPESCRIPT + FASTMCP)
each_era = pytest.mark.parametrize("era", ERAS)


@each
async def test_a_program_places_and_deletes_only_the_calls_that_its_user_approves(
    name: str, era: Era, tmp_path: Path
) -> None:
    async with conversing(name, tmp_path, user=("decline", "accept"), era=era) as driven:
        await refuse(driven)
        await walk(driven, asks=True)
    spoken = driven.about["protocol"]
    assert spoken == (MODERN if era == "auto" else LAST_LEGACY)


@each
async def test_a_program_without_elicitation_gets_every_fault_and_confirms_by_token_over_http(
    name: str, era: Era, tmp_path: Path, sandbox: str
) -> None:
    async with conversing(name, tmp_path, era=era, url=sandbox) as driven:
        answer = await blunder(driven)
        missing = await driven.call("fetch_call", sid="CA" + "0" * 32)
        await walk(driven, asks=False)
    assert answer.failed
    assert "not_found" in missing.seen
    if name == "fastmcp":  # which raises errors
        return
    assert answer.structured is not None
    paths = {fault["path"] for fault in answer.structured["error"]["faults"]}
    assert paths == {"/to", "/timeout", "/whom", "/say"}
    assert answer.valid is missing.valid is True  # according to the output schema


@needs_client("inspector")
@each_era
async def test_the_inspector_finds_every_tool_compatible_and_calls_one_on_stdio(
    era: Era, tmp_path: Path
) -> None:
    inspector = Inspector(tmp_path, era=era)
    status, listed = await inspector.ask("tools/list", "--strict")
    assert status == 0
    assert {tool["name"] for tool in listed["tools"]} == TOOLS
    answer = await blunder(inspector)
    assert answer.failed


@needs_client("inspector")
async def test_the_inspector_places_a_call_over_http_by_token(tmp_path: Path, sandbox: str) -> None:
    inspector = Inspector(tmp_path, [sandbox])
    shown = await inspector.call("create_call", **PLACE)
    placed = await inspector.call("create_call", **PLACE, confirmation_token=token(shown))
    assert sids(await inspector.call("list_calls", to=GUEST)) == sids(placed)


@needs_client("inspector")
async def test_the_inspector_ends_its_server_with_each_request_and_a_token_outlives_it(
    tmp_path: Path,
) -> None:
    inspector = Inspector(tmp_path)
    shown = await inspector.call("create_call", **PLACE)
    answer = await inspector.call("create_call", **PLACE, confirmation_token=token(shown))
    assert len(sids(answer)) == 1
