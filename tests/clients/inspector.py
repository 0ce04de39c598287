"""The command line of the MCP Inspector: a client for one request."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio

from tests.clients.conversation import SERVER, Answer, Era, environment
from tests.clients.pins import CLIENTS, node

PROGRAM = (
    CLIENTS["inspector"].home
    / "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
)
_TOOL_IS_ERROR = 5


@dataclass(frozen=True)
class Inspector:
    """Asks the server at the other end of `target`: a command, or a URL."""

    home: Path
    target: Sequence[str] = field(default_factory=lambda: SERVER)
    era: Era = "legacy"

    async def ask(self, method: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Return the exit status of a request, and its result."""
        command = [
            *(node(), PROGRAM, "--cli", *self.target),
            *("--protocol-era", self.era, "--method", method, *options),
            *("--format", "json", "--quiet", "--connect-timeout", "60000"),
        ]
        done = await anyio.run_process(
            command, cwd=self.home, env=environment(self.home), check=False
        )
        assert done.stdout, done.stderr.decode()
        content = cast("dict[str, Any]", json.loads(done.stdout))
        return done.returncode, content["result"]

    async def call(self, tool: str, **arguments: object) -> Answer:
        """Call a tool."""
        options = ("--tool-name", tool, "--tool-args-json", json.dumps(arguments))
        status, result = await self.ask("tools/call", *options)
        assert status == (_TOOL_IS_ERROR if result["isError"] else 0)
        seen = "\n".join(block["text"] for block in result["content"])
        return Answer(seen, result["isError"], result["structuredContent"])
