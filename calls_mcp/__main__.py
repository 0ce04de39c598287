"""The entry point. A signal ends the program quietly, even while it is still being loaded."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line. Return the exit status."""
    _open_standard_streams()
    for number in (signal.SIGINT, signal.SIGTERM):  # until a command has something to finish first
        signal.signal(number, _exit_at_once)

    from calls_mcp.cli.main import main as run  # noqa: PLC0415

    return run()


def _open_standard_streams() -> None:
    """Open the streams that are closed, so that no other file gets their descriptors."""
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _exit_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
