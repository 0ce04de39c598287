"""Screenshots of the MCP Inspector's web UI with `calls-mcp serve --sandbox`.

The version of the Inspector is pinned in `tests/clients`.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, ViewportSize

from tests.chromium import open_browser
from tests.clients.inspector import PROGRAM
from tests.clients.install import install
from tests.clients.pins import node

SERVERS = {"mcpServers": {"calls": {"command": "calls-mcp", "args": ["serve", "--sandbox"]}}}


def take(save: Callable[[str, bytes], None]) -> None:
    """Take `tools`, `confirmation` and `result`."""
    if install(["inspector"]):
        sys.exit(1)
    with (
        TemporaryDirectory(prefix="pictures-") as folder,
        _inspector(Path(folder)) as url,
        open_browser() as browser,
    ):
        size: ViewportSize = {"width": 1280, "height": 720}
        page = browser.new_page(viewport=size, reduced_motion="reduce")
        _open(page, url)
        _choose(page, "create_call")
        save("tools", _picture(page))
        save("confirmation", _confirmation(page))
        save("result", _result(page))


def _open(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("switch", name='Connect or disconnect "calls"').click(force=True)
    page.get_by_text("Connected", exact=True).wait_for()
    page.get_by_role("button", name="Close monitoring sidebar").click()
    page.get_by_role("banner").get_by_text("Tools", exact=True).click()


def _confirmation(page: Page) -> bytes:
    said = "Your table is ready."
    _execute(page, {"to": "+15005550205", "from": "+15005550006", "say": said})
    question = page.get_by_role("dialog")
    question.get_by_role("checkbox", name="Yes, place this call").check()
    picture = _picture(page)
    question.get_by_role("button", name="Submit").click()
    page.get_by_text("outbound-api").first.wait_for()
    return picture


def _result(page: Page) -> bytes:
    _choose(page, "list_calls")
    _execute(page, {"limit": 3})
    page.get_by_text("newest first").first.wait_for()
    page.get_by_text("Tool progress").wait_for(state="detached")
    return _picture(page)


def _choose(page: Page, tool: str) -> None:
    page.get_by_role("button", name=tool).click()


def _execute(page: Page, arguments: Mapping[str, object]) -> None:
    """Call the tool with these arguments as JSON, because the form would send every default."""
    page.get_by_role("switch", name="Edit as JSON").check()
    page.get_by_role("textbox", name="Arguments JSON").focus()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(json.dumps(arguments, indent=2))
    page.get_by_role("button", name="Execute Tool").click()


def _picture(page: Page) -> bytes:
    page.evaluate("window.scrollTo(0, 0)")
    return page.screenshot(animations="disabled", caret="hide")


@contextmanager
def _inspector(folder: Path) -> Generator[str]:
    """Run the Inspector with a server that is configured as in the docs. Yield its URL."""
    (folder / "servers.json").write_text(json.dumps(SERVERS), "utf-8")
    variables = {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CLIENT_PORT": str(_free_port()),
        "MCP_SANDBOX_PORT": str(_free_port()),
        "MCP_AUTO_OPEN_ENABLED": "false",
        "DANGEROUSLY_OMIT_AUTH": "true",
        "MCP_INSPECTOR_SECRET_STORE": "memory",
    }
    process = subprocess.Popen(  # noqa: S603
        [node(), PROGRAM, "--web", "--config", folder / "servers.json"],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield _read_url(process)
    finally:
        process.terminate()
        process.wait()


def _read_url(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    for line in process.stdout:
        if found := re.fullmatch(r"\s*(http://\S+)\s*", line):
            return found[1]
    sys.exit("The Inspector did not start.")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
