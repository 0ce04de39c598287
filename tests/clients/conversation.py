"""A foreign client that is driven by lines of JSON, or from the command line."""

import json
import os
import sysconfig
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import anyio
import pytest
from anyio.abc import ByteSendStream
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.clients.pins import CLIENTS, node

Reply = Literal["accept", "decline"]
Era = Literal["auto", "legacy"]

SERVER = [str(Path(sysconfig.get_path("scripts"), "calls-mcp")), "serve", "--sandbox"]

_DRIVERS = Path(__file__).parent / "drivers"
_LONGEST_LINE = 2**22  # bytes
_SCRIPTS = {
    "typescript-1": "typescript.mjs",
    "typescript-2": "typescript.mjs",
    "fastmcp": "fastmcp_client.py",
    "langchain": "langchain_adapters.py",
    "openai-agents": "openai_agents.py",
    "pydantic-ai": "pydantic_ai_agent.py",
    "google-adk": "google_adk.py",
    "llama-index": "llama_index_tools.py",
}


@dataclass(frozen=True)
class Answer:
    """The result of a tool call.

    `seen` is what a model would read, `failed` whether the client marks it as an error, and `asked`
    the questions to the user. `valid` says whether `structured` satisfies the tool's output schema,
    according to the client's own validator, if it has one.
    """

    seen: str
    failed: bool
    structured: dict[str, Any] | None = None
    asked: list[str] = field(default_factory=list[str])
    valid: bool | None = None


class Speaking(Protocol):
    """A client that can call a tool."""

    async def call(self, tool: str, **arguments: object) -> Answer:
        """Call a tool."""
        ...


@dataclass
class Driven:
    """A client that one of our drivers controls; `about` is the driver's first line."""

    name: str
    requests: ByteSendStream
    answers: BufferedByteReceiveStream
    log: Path
    about: dict[str, Any] = field(default_factory=dict[str, Any])

    async def call(self, tool: str, **arguments: object) -> Answer:
        """Call a tool."""
        line = json.dumps({"tool": tool, "arguments": arguments})
        await self.requests.send(f"{line}\n".encode())
        return Answer(**await self.read())

    async def read(self) -> dict[str, Any]:
        """Return the driver's next line."""
        try:
            line = await self.answers.receive_until(b"\n", _LONGEST_LINE)
        except anyio.IncompleteRead:
            pytest.fail(f"The driver of {self.name} ended:\n{self.log.read_text('utf-8')}")
        return cast("dict[str, Any]", json.loads(line))


def needs_client(name: str) -> pytest.MarkDecorator:
    """Skip a test unless this client is installed."""
    reason = f"{name} is not installed: python -m tests.clients.install {name}"
    return pytest.mark.skipif(not CLIENTS[name].is_installed, reason=reason)


def environment(home: Path) -> dict[str, str]:
    """Return the variables of a client with its own home directory and without telemetry."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST", "PYTHON"))}
    quiet = {"DO_NOT_TRACK": "1", "OPENAI_AGENTS_DISABLE_TRACING": "1", "NO_COLOR": "1"}
    return {**kept, **quiet, "HOME": str(home), "NO_PROXY": "127.0.0.1"}


@asynccontextmanager
async def conversing(
    name: str, home: Path, *, user: Sequence[Reply] = (), era: Era = "auto", url: str = ""
) -> AsyncGenerator[Driven]:
    """Connect a client to its own sandbox on stdio, or to the server at `url`.

    The `user` replies to the questions in this order, and to all further ones with the last reply.
    """
    plan = {"command": [] if url else SERVER, "url": url, "user": [*user], "era": era}
    log = home / "stderr"
    with log.open("wb") as stderr:
        process = await anyio.open_process(
            _command(name, plan), cwd=_folder(name, home), env=environment(home), stderr=stderr
        )
    assert process.stdin
    assert process.stdout
    async with process:
        answers = BufferedByteReceiveStream(process.stdout)
        driven = Driven(name, process.stdin, answers, log)
        driven.about = await driven.read()
        yield driven
        await process.stdin.aclose()
        assert await process.wait() == 0, log.read_text("utf-8")


def _folder(name: str, home: Path) -> Path:
    """Return the directory of the driver, where Node looks for packages."""
    return CLIENTS[name].home if CLIENTS[name].registry == "npm" else home


def _command(name: str, plan: Mapping[str, object]) -> list[str | Path]:
    script = _DRIVERS / _SCRIPTS[name]
    if CLIENTS[name].registry == "pypi":
        return [CLIENTS[name].python, script, json.dumps(plan)]
    told = json.dumps({**plan, "generation": int(name.removeprefix("typescript-"))})
    return [node(), "--input-type=module", "--eval", script.read_text("utf-8"), told]
