"""The service as a process of its own."""

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
    """A server process, and what it has told on stderr so far."""

    process: Process = field(kw_only=True)
    told: list[str] = field(default_factory=list[str])

    def terminate(self) -> None:
        """Ask it to end."""
        self.process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def replica(
    variables: Mapping[str, str], *arguments: str, token: str = ""
) -> AsyncGenerator[Replica]:
    """A server with these variables, once it serves; killed at the end if it still does."""
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
        assert found.url, "".join(found.told)
        try:
            yield found
        finally:
            if process.returncode is None:
                process.kill()


async def _listen(replica: Replica, serving: anyio.Event) -> None:
    """Take in what it tells, to the end."""
    assert replica.process.stderr
    pending = ""
    async for text in TextReceiveStream(replica.process.stderr):
        replica.told.append(text)
        pending += text
        _, announced, rest = pending.partition(_ANNOUNCED)
        if announced and "\n" in rest and not serving.is_set():
            replica.url = rest.splitlines()[0]
            serving.set()
    serving.set()
