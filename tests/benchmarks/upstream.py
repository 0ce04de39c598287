"""The emulator in a process of its own, with a history."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def emulator(calls: int = 100) -> Generator[str]:
    """Its base URL."""
    arguments = ["emulator", "--port", "0", "--seed", "1", "--calls", str(calls)]
    with subprocess.Popen(  # noqa: S603  # our own program
        [sys.executable, "-m", "calls_mcp", *arguments], stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stderr
        try:
            yield process.stderr.readline().split()[0]
        finally:
            process.terminate()
