"""The console in real Chromium: `npm install --prefix .venv/browser playwright-core axe-core`."""

import shutil
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from tests.console.desk import Desk, open_desk
from tests.rig import placing

DRIVER = Path(__file__).parent / "browser.mjs"
MODULES = Path(sys.prefix) / "browser"
CHROMIUM, NODE = shutil.which("chromium"), shutil.which("node")
SCRIPT = "<script>document.title='hacked'</script>"

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not (CHROMIUM and NODE and (MODULES / "node_modules/axe-core").is_dir()),
        reason="Chromium, Node, playwright-core or axe-core is missing",
    ),
]


@asynccontextmanager
async def driver(desk: Desk, what: str, *arguments: str) -> AsyncGenerator[Process]:
    url, link = desk.console.url, desk.console.link("ann")
    command: Sequence[str] = (
        NODE or "",
        str(DRIVER),
        str(MODULES),
        CHROMIUM or "",
        url,
        link,
        what,
        *arguments,
    )
    async with await anyio.open_process(command, stdout=PIPE, stderr=PIPE) as process:
        yield process


async def told(process: Process) -> str:
    """What it finds wrong, once it has ended."""
    assert process.stderr
    return "".join([text async for text in TextReceiveStream(process.stderr)])


async def test_axe_finds_nothing_on_any_page(tmp_path: Path) -> None:
    rules = 'place = "never"\nhang_up = "operator"'
    async with open_desk(tmp_path, rules) as desk:
        async with desk.rig.connect(name=SCRIPT) as agent:
            placed = await agent.call("create_call", **placing())
            sid = placed["call"]["sid"]
            desk.rig.clock.advance(20)
            asked = await agent.call("update_call", sid=sid, status="completed")
        approval = asked["confirmation"]["approval"]
        pages = ["/", "/audit", "/rules", "/calls", "/overview", "/people", "/login?link=x"]
        pages += [f"/waiting/{approval}", f"/calls/{sid}", f"/calls/{sid}/hang-up", "/nowhere"]
        async with driver(desk, "examine", *pages) as process:
            assert await told(process) == ""
            assert await process.wait() == 0


async def test_what_comes_while_the_page_is_open_is_approved_by_keys(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk, driver(desk, "decide") as process:
        assert process.stdout
        assert await TextReceiveStream(process.stdout).receive() == "open\n"
        async with desk.rig.connect(name=SCRIPT) as agent:
            assert (await agent.call("create_call", **placing()))["outcome"] == "awaiting_operator"
            assert await told(process) == ""
            assert await process.wait() == 0
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"
    assert len(desk.rig.changes) == 1
