"""A real nginx in front of replicas, with the configuration that is shipped."""

import re
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from anyio.abc import Process
from anyio.lowlevel import checkpoint

from tests.store.redis_server import free_port

CONFIGURATION = Path(__file__).parents[2] / "config/deploy/nginx.conf"


@asynccontextmanager
async def balanced(folder: Path, urls: Sequence[str]) -> AsyncGenerator[str]:
    """An nginx in front of these two servers; the endpoint's URL there."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("nginx is not on the PATH")
    process, port = None, 0
    while process is None:
        port = free_port()
        file = _configured(folder, urls, port)
        command = [program, "-e", "stderr", "-c", str(file), "-g", "daemon off;"]
        process = await _begun(command, port)
    async with process:
        try:
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.terminate()


async def _begun(command: Sequence[str], port: int) -> Process | None:
    """The process, once it serves; None if the port was taken."""
    process = await anyio.open_process(command, stdout=None, stderr=None)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        while process.returncode is None:
            try:
                await client.get(f"http://127.0.0.1:{port}/healthz")
            except httpx.ConnectError:
                await checkpoint()  # lets the other end have its turn; waits for nothing
            else:
                return process
    return None


def _configured(folder: Path, urls: Sequence[str], port: int) -> Path:
    folder.chmod(0o755)
    file = folder / "nginx.conf"
    file.write_text(_adapted(folder, urls, port), "utf-8")
    return file


def _adapted(folder: Path, urls: Sequence[str], port: int) -> str:
    """The configuration with our addresses, and another folder for nginx to write to."""
    text = CONFIGURATION.read_text("utf-8").replace("/tmp/", f"{folder}/")  # noqa: S108  # its own
    changes = {
        r"listen 8080;": f"listen 127.0.0.1:{port};",
        **{
            rf"server calls-mcp-{number}:8080 ": f"server {urlsplit(url).netloc} "
            for number, url in enumerate(urls, 1)
        },
    }
    for pattern, replacement in changes.items():
        text, count = re.subn(pattern, replacement, text)
        assert count == 1, f"{pattern} is not in {CONFIGURATION.name} once"
    return text
