"""Run the server as a process."""

import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from tests.http.service import Service

_ANNOUNCED = "calls-mcp: serving at "


@dataclass
class Replica(Service):
    """A server process, and its stderr so far."""

    process: Process = field(kw_only=True)
    stderr: list[str] = field(default_factory=list[str])

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        """Kill the process, as a crash would."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def replica(
    variables: Mapping[str, str], *arguments: str, token: str = ""
) -> AsyncGenerator[Replica]:
    """Start a server with these variables; yield it once it serves, and kill it at the end."""
    command = [
        *(sys.executable, "-m", "calls_mcp", "serve", "--transport", "http"),
        *("--port", "0", *arguments),
    ]
    process = await anyio.open_process(command, env={**os.environ, **variables}, stdout=None)
    async with process, anyio.create_task_group() as tasks:
        found = Replica("", token, process=process)
        serving = anyio.Event()
        tasks.start_soon(_listen, found, serving)
        await serving.wait()
        assert found.url, "".join(found.stderr)
        try:
            yield found
        finally:
            if process.returncode is None:
                process.kill()


async def _listen(replica: Replica, serving: anyio.Event) -> None:
    """Read stderr until it is closed."""
    assert replica.process.stderr
    pending = ""
    async for text in TextReceiveStream(replica.process.stderr):
        replica.stderr.append(text)
        pending += text
        _, announced, rest = pending.partition(_ANNOUNCED)
        if announced and "\n" in rest and not serving.is_set():
            replica.url = rest.splitlines()[0]
            serving.set()
    serving.set()
