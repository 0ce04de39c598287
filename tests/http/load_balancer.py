"""Run nginx or HAProxy in front of replicas, with the shipped configuration."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
from anyio.abc import Process
from anyio.lowlevel import checkpoint

from tests.optional_tools import program
from tests.storage.redis_server import free_port

DEPLOY = Path(__file__).parents[2] / "config/deploy"
NGINX, HAPROXY = DEPLOY / "nginx.conf", DEPLOY / "haproxy.cfg"


@asynccontextmanager
async def nginx(folder: Path, urls: Sequence[str]) -> AsyncGenerator[str]:
    """Start nginx in front of these two servers; yield its URL of the endpoint."""
    own = {r"/tmp/": f"{folder}/"}  # noqa: S108  # in nginx's container
    changes = {"listen 8080;": "listen 127.0.0.1:{port};", **own}
    command = [_found("nginx"), "-e", "stderr", "-g", "daemon off;", "-c"]
    async with _balanced(command, folder / NGINX.name, _text(NGINX, changes, urls)) as url:
        yield url


@asynccontextmanager
async def haproxy(folder: Path, urls: Sequence[str]) -> AsyncGenerator[str]:
    """Start HAProxy in front of these two servers; yield its URL of the endpoint."""
    changes = {"bind 0.0.0.0:8080": "bind 127.0.0.1:{port}"}
    command = [_found("haproxy"), "-db", "-f"]
    async with _balanced(command, folder / HAPROXY.name, _text(HAPROXY, changes, urls)) as url:
        yield url


@asynccontextmanager
async def _balanced(command: Sequence[str], file: Path, text: str) -> AsyncGenerator[str]:
    process, port = None, 0
    while process is None:
        port = free_port()
        _write(file, text.replace("{port}", str(port)))
        process = await _begun([*command, str(file)], port)
    async with process:
        try:
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.terminate()


def _write(file: Path, text: str) -> None:
    file.parent.chmod(0o755)  # for the worker processes, which do not run as root
    file.write_text(text, "utf-8")


def _found(name: str) -> str:
    found = program(name)
    assert found
    return found


async def _begun(command: Sequence[str], port: int) -> Process | None:
    """Start the process and return it once it serves; None if the port was in use."""
    process = await anyio.open_process(command, stdout=None, stderr=None)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        while process.returncode is None:
            try:
                answer = await client.get(f"http://127.0.0.1:{port}/healthz")
            except httpx.ConnectError:
                await checkpoint()
            else:
                if answer.status_code == HTTPStatus.OK:  # it may not have found the replicas yet
                    return process
    return None


def _text(file: Path, changes: Mapping[str, str], urls: Sequence[str]) -> str:
    """Return a shipped configuration with the addresses replaced."""
    text = file.read_text("utf-8")
    servers = {f"calls-mcp-{n}:8080": urlsplit(url).netloc for n, url in enumerate(urls, 1)}
    for before, after in {**changes, **servers}.items():
        assert before in text, f"{before} is not in {file.name}"
        text = text.replace(before, after)
    return text
