"""Several processes that do the same at the same time, to one storage.

`python -m tests.storage.crew DEED URL` says when it is ready, begins when it is given a line, and
prints what came of it as JSON.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from calls_mcp.emulator import ManualClock
from calls_mcp.outcome import Outcome
from calls_mcp.storage import Limit, Storage, StorageOptions, open_storage

TIMES = 25
IDENTIFIER = "the one"
ROOMY = Limit("roomy", amount=1000, seconds=60, key="all")
NARROW = Limit("narrow", amount=10, seconds=60, key="all")


async def use(storage: Storage) -> object:
    """Use a confirmation, as whoever wins or as one who waits."""
    won = await storage.claim(IDENTIFIER)
    if won:
        await storage.settle(
            IDENTIFIER, Outcome(outcome="done", warnings=tuple(map(str, range(50))))
        )
    return {"won": won, "outcome": (await storage.outcome(IDENTIFIER)).content()}


async def hit(storage: Storage) -> object:
    """Whether there was room."""
    return await storage.hit([ROOMY, NARROW]) is None


async def enter(storage: Storage) -> object:
    """Whether there was room."""
    return isinstance(await storage.reserve([ROOMY, NARROW]), str)


async def note(storage: Storage) -> object:
    """Whether nobody had done it before."""
    return await storage.note("+15005550205", 60) is not None


async def hold(storage: Storage) -> object:
    """Claim a confirmation, say so, and settle it when told to."""
    won = await storage.claim(IDENTIFIER)
    print(json.dumps(won), flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.readline)
    return await storage.settle(IDENTIFIER, Outcome(outcome="done"))


_DEEDS: Mapping[str, tuple[Callable[[Storage], Awaitable[object]], int]] = {
    "use": (use, TIMES),
    "hit": (hit, TIMES),
    "enter": (enter, TIMES),
    "note": (note, TIMES),
    "hold": (hold, 1),
}


def start(deed: str, url: str, size: int) -> list[subprocess.Popen[str]]:
    """Start `size` processes, which all begin together."""
    command = [sys.executable, "-m", "tests.storage.crew", deed, url]
    crew = [
        subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        for _ in range(size)
    ]
    for process in crew:
        assert heard(process) == "ready"
    for process in crew:
        tell(process, "go")
    return crew


def tell(process: subprocess.Popen[str], what: str) -> None:
    """Give it a line."""
    assert process.stdin is not None
    process.stdin.write(f"{what}\n")
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> Any:  # noqa: ANN401
    """The next line that it prints, as JSON."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def together(deed: str, url: str, size: int = 4) -> list[Any]:
    """What came of it, in all processes, each of which does it many times at once."""
    results: list[Any] = []
    for process in start(deed, url, size):
        with process:
            results += cast("list[Any]", heard(process))
    return results


async def _work(deed: str, url: str) -> None:
    act, times = _DEEDS[deed]
    async with open_storage(url, StorageOptions(clock=ManualClock())) as storage:
        await storage.ping()
        print(json.dumps("ready"), flush=True)  # noqa: T201
        sys.stdin.readline()
        results = await asyncio.gather(*(act(storage) for _ in range(times)))
    print(json.dumps(results), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(_work(*sys.argv[1:]))
