"""The emulator in a separate process, with past calls."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import httpx

from calls_mcp.emulator import DEFAULT_ACCOUNT


@contextmanager
def emulator(calls: int = 100) -> Generator[str]:
    """Start the emulator and yield its base URL."""
    arguments = ["emulator", "--port", "0", "--seed", "1", "--calls", str(calls)]
    with subprocess.Popen(  # noqa: S603  # our own program
        [sys.executable, "-m", "calls_mcp", *arguments], stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stderr
        try:
            yield process.stderr.readline().split()[0]
        finally:
            process.terminate()


def a_call(url: str) -> str:
    """Return the SID of the newest call."""
    account = DEFAULT_ACCOUNT
    listed = f"{url}/2010-04-01/Accounts/{account.sid}/Calls.json?PageSize=1"
    sid: str = httpx.get(listed, auth=(account.sid, account.auth_token)).json()["calls"][0]["sid"]
    return sid


def delay(url: str, seconds: float) -> None:
    """Delay every GET, as a network does."""
    fault = {"kind": "delay", "seconds": seconds, "method": "GET", "probability": 1}
    httpx.post(f"{url}/emulator/faults", json=fault).raise_for_status()
