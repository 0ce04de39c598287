"""A server process on stdio with a minimal client, so that the client's cost is negligible."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from calls_mcp.emulator import DEFAULT_ACCOUNT
from tests.harness import PERMISSIVE
from tests.isolation import without_state

SMALLEST = (sys.executable, "-m", "tests.benchmarks.smallest")
OURS = (sys.executable, "-m", "calls_mcp")
UNTHROTTLED = {"CALLS_MCP_POLICY": str(PERMISSIVE)}
"""For benchmarks with more requests per minute than the shipped policy allows."""

_HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmarks", "version": "1"},
}


class StdioServer:
    """A server process, as a context manager."""

    def __init__(
        self, command: Sequence[str], base_url: str = "http://127.0.0.1:9", **environment: str
    ) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # our own program
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                "TWILIO_ACCOUNT_SID": DEFAULT_ACCOUNT.sid,
                "TWILIO_AUTH_TOKEN": DEFAULT_ACCOUNT.auth_token,
                "CALLS_MCP_API_BASE_URL": base_url,
                "PATH": os.defpath,
                **without_state(),
                **environment,
            },
        )
        self._last = 0
        self.request("initialize", _HELLO)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    @property
    def memory(self) -> float:
        """Return its memory in MB."""
        return psutil.Process(self._process.pid).memory_info().rss / 1e6

    @property
    def peak(self) -> float:
        """Return its peak memory in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text("ascii")
        (kilobytes,) = re.findall(r"VmHWM:\s+([0-9]+) kB", status)
        return int(kilobytes) / 1000

    def request(self, method: str, params: Mapping[str, object]) -> dict[str, Any]:
        """Send a request and return its result."""
        self._last += 1
        self._send({"jsonrpc": "2.0", "id": self._last, "method": method, "params": params})
        assert self._process.stdout
        while True:
            message = json.loads(self._process.stdout.readline())
            if message.get("id") == self._last:
                return message["result"]

    def call(self, tool: str, arguments: Mapping[str, object]) -> dict[str, Any]:
        """Call a tool and return the structured content of its result."""
        result = self.request("tools/call", {"name": tool, "arguments": {**arguments}})
        assert not result.get("isError"), result
        return result["structuredContent"]

    def _send(self, message: Mapping[str, object]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()
