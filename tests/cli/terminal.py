"""The command on a pseudo-terminal, with typed input."""

import os
import pty
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Terminal:
    """A command whose stdin and stderr are a terminal; its stdout is a pipe."""

    process: "subprocess.Popen[str]"
    descriptor: int
    seen: str = ""

    def wait_for(self, text: str) -> None:
        """Read until `text` is on the screen."""
        while text not in self.seen:
            self.seen += os.read(self.descriptor, 4096).decode()

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def ended(self) -> tuple[int, str]:
        """Return the exit status and stdout."""
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, out


@contextmanager
def on_terminal(*arguments: str) -> Generator[Terminal]:
    """Run `calls-mcp` with these arguments."""
    outside, inside = pty.openpty()
    process = subprocess.Popen(  # noqa: S603  # our own program
        [sys.executable, "-m", "calls_mcp", *arguments],
        stdin=inside,
        stderr=inside,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    os.close(inside)
    try:
        with process:
            yield Terminal(process, outside)
    finally:
        process.kill()
        os.close(outside)
