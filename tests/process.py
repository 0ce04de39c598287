"""The server as a process, and a client that speaks lines of JSON to it."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import anyio
from anyio.abc import ByteSendStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from calls_mcp.emulator import DEFAULT_ACCOUNT

LEGACY = "2025-06-18"
MODERN = "2026-07-28"
_LONGEST_LINE = 2**22  # bytes


@dataclass
class Server:
    """A server process; `lines` has its stdout, and `stderr` is the file with its stderr."""

    process: Process
    stdin: ByteSendStream
    stdout: BufferedByteReceiveStream
    stderr: Path
    lines: list[str] = field(default_factory=list[str])
    _last: int = 0

    async def initialize(self, **capabilities: object) -> None:
        """Initialize as an older client with these capabilities."""
        told = {
            "protocolVersion": LEGACY,
            "capabilities": capabilities,
            "clientInfo": {"name": "raw", "version": "1"},
        }
        await self.request("initialize", **told)
        await self.read()
        await self.send(method="notifications/initialized")

    async def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Send a 2026-07-28 request and return its response."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": params.pop("capabilities", {}),
        }
        await self.request(method, **params, _meta=meta)
        return await self.read()

    async def request(self, method: str, **params: object) -> int:
        """Send a request unchanged. Return its id."""
        self._last += 1
        await self.send(id=self._last, method=method, params=params)
        return self._last

    async def send(self, **message: object) -> None:
        """Send a message."""
        await self.write(json.dumps({"jsonrpc": "2.0", **message}))

    async def write(self, line: str) -> None:
        """Send a line unchanged."""
        await self.stdin.send(line.encode() + b"\n")

    async def read(self) -> dict[str, Any]:
        """Return the next message."""
        line = await self.stdout.receive_until(b"\n", _LONGEST_LINE)
        self.lines.append(line.decode())
        return cast("dict[str, Any]", json.loads(line))

    async def end(self) -> int:
        """Close its input, read the rest, and wait for its end. Return its exit status."""
        await self.stdin.aclose()
        rest = bytearray()
        try:
            while True:
                rest += await self.stdout.receive()
        except anyio.EndOfStream:
            self.lines += rest.decode().splitlines()
        return await self.process.wait()

    def logged(self) -> str:
        """Return what it has written to stderr so far."""
        return self.stderr.read_text("utf-8")


def environment(base_url: str, **variables: str) -> dict[str, str]:
    """Return the variables of a server with the API at `base_url`."""
    return {
        "TWILIO_ACCOUNT_SID": DEFAULT_ACCOUNT.sid,
        "TWILIO_AUTH_TOKEN": DEFAULT_ACCOUNT.auth_token,
        "CALLS_MCP_API_BASE_URL": base_url,
        **variables,
    }


@asynccontextmanager
async def started(variables: dict[str, str], *arguments: str) -> AsyncGenerator[Server]:
    """Start a server with these variables and arguments. It ends when its input is closed."""
    with TemporaryDirectory() as folder:
        stderr = Path(folder) / "stderr"
        with stderr.open("wb") as file:
            command = [sys.executable, "-m", "calls_mcp", *arguments]
            process = await anyio.open_process(
                command, env={**os.environ, **variables}, stderr=file
            )
        assert process.stdin
        assert process.stdout
        async with process:
            stdout = BufferedByteReceiveStream(process.stdout)
            yield Server(process, process.stdin, stdout, stderr)
            await process.stdin.aclose()
            await process.wait()


def modules_loaded_by(*arguments: str, messages: Sequence[Mapping[str, object]] = ()) -> set[str]:
    """Return the modules that `calls-mcp` has loaded once it has answered these messages."""
    code = (
        "import sys; from calls_mcp.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdin
        assert process.stdout
        for message in messages:
            process.stdin.write(f"{json.dumps(message)}\n")
            process.stdin.flush()
            if "id" in message:
                assert '"result"' in process.stdout.readline()
        _, loaded = process.communicate(timeout=60)
    assert process.returncode == 0
    return {*loaded.splitlines()}
