"""Run a Redis server on a free port."""

import random
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.optional_tools import program


@dataclass
class RedisServer:
    """A redis-server process without persistence."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server, always on the same port."""
        command = program("redis")
        assert command
        fixed = self.port != 0
        while not self._runs(command):
            assert not fixed, "another process took the port"
            self.port = 0

    def stop(self) -> None:
        if self.process is not None:
            with self.process:
                self.process.kill()
            self.process = None

    def set(self, **settings: str) -> None:
        for name, value in settings.items():
            self.run("CONFIG", "SET", name, value)

    def run(self, *command: str) -> object:
        """Run one command, as the default user."""
        client: Any = redis.Redis(port=self.port)
        with client:
            return client.execute_command(*command)

    def _runs(self, command: str) -> bool:
        self.port = self.port or free_port()
        settings = {"port": self.port, "bind": "127.0.0.1", "save": "", "dir": self.folder}
        options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        self.process = subprocess.Popen(  # noqa: S603
            [command, *options], stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert self.process.stdout is not None
        if any("Ready to accept connections" in line for line in self.process.stdout):
            return True
        self.stop()
        return False


def free_port() -> int:
    """Return a port that the system does not assign, so that it stays free while Redis is down."""
    while True:
        port = random.randrange(10_000, 32_000)  # noqa: S311
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
