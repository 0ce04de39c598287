"""A process that writes to a log: `python -m tests.audit.writer MODE PATH [COUNT]`.

It says `ready`, waits for a line on stdin, then writes: `all` COUNT changes; `half` dies midway in
the record that it writes; `full` may not let files grow beyond COUNT bytes.
"""

import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import anyio

from calls_mcp.audit import AuditUnavailable, Ending, destinations, open_audit
from calls_mcp.audit.chain import Link
from calls_mcp.catalog import Json
from tests.audit.logs import ENTRY, SID


def _seal_never(_fields: Mapping[str, Json], _last: Link) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("survived")


async def _write_changes(path: Path, count: int) -> None:
    async with open_audit(path) as log:
        for _ in range(count):
            attempt = await log.begin(ENTRY)
            await log.end(attempt, Ending("done", http_status=201, sid=SID))


def main(mode: str, path: Path, count: int) -> None:
    print("ready", flush=True)  # noqa: T201  # the test waits for it
    sys.stdin.readline()
    if mode == "half":
        destinations.seal = _seal_never
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if mode == "full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, limits[1]))
    try:
        anyio.run(_write_changes, path, 1 if mode == "full" else count)
    except AuditUnavailable as unavailable:
        print(unavailable.hint)  # noqa: T201  # the test reads it
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)  # coverage has a file to write


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
