"""Run a function in several processes at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier, Semaphore
from typing import ParamSpec, TypeVar

from calls_mcp.emulator import ManualClock
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import StorageOptions

COUNT = 4
TIMES = 25
TIMEOUT = 60  # seconds; a slow disk may need long for what all processes write

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(  # imported once instead of in each process
    ["tests.audit.test_log", "tests.storage.test_database", "tests.storage.test_limits"]
)
_starts: list[Barrier] = []

_P = ParamSpec("_P")
_T = TypeVar("_T")


def run_in_each(work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> list[_T]:
    """Run `work` in four concurrent processes; return its results."""
    with ProcessPoolExecutor(COUNT, _CONTEXT, _set_start, (_CONTEXT.Barrier(COUNT),)) as pool:
        futures = [pool.submit(_begin, work, *arguments, **named) for _ in range(COUNT)]
        return [future.result() for future in futures]


def start(work: Callable[_P, object], *arguments: _P.args, **named: _P.kwargs) -> BaseProcess:
    """Start a process that runs `work`."""
    process = _CONTEXT.Process(target=work, args=arguments, kwargs=named)
    process.start()
    return process


def semaphore() -> Semaphore:
    """Return a semaphore that can be shared with such a process."""
    return _CONTEXT.Semaphore(0)


def count_successes(operation: Callable[[Storage], Awaitable[bool]], url: str) -> int:
    """Run an operation many times concurrently; return how often it succeeded."""

    async def work() -> int:
        options = StorageOptions(timeout=TIMEOUT, clock=ManualClock(), is_simulated=True)
        async with open_storage(url, options) as storage:
            return sum(await asyncio.gather(*(operation(storage) for _ in range(TIMES))))

    return asyncio.run(work())


def _set_start(start: Barrier) -> None:
    _starts.append(start)


def _begin(work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    _starts[-1].wait()
    return work(*arguments, **named)
