"""Several processes that do the same at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier, Semaphore
from typing import ParamSpec, TypeVar

from calls_mcp.emulator import ManualClock
from calls_mcp.storage import Limit, Storage, StorageOptions, open_storage

SIZE = 4
TIMES = 25
ROOMY = Limit("roomy", amount=1000, seconds=60, key="all")
NARROW = Limit("narrow", amount=10, seconds=60, key="all")

_CONTEXT = get_context("forkserver")  # whose processes begin quickly from the second time on
_starts: list[Barrier] = []

_P = ParamSpec("_P")
_T = TypeVar("_T")

Deed = Callable[[Storage], Awaitable[bool]]


async def hit(storage: Storage) -> bool:
    """Whether there was room."""
    return await storage.hit([ROOMY, NARROW]) is None


async def enter(storage: Storage) -> bool:
    """Whether there was room."""
    return isinstance(await storage.reserve([ROOMY, NARROW]), str)


async def note(storage: Storage) -> bool:
    """Whether nobody had done it before."""
    return await storage.set_if_absent("+15005550205", 60) is not None


def together(work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> list[_T]:
    """What `work` returns in each of four processes, which begin at once."""
    with ProcessPoolExecutor(SIZE, _CONTEXT, _meet, (_CONTEXT.Barrier(SIZE),)) as pool:
        futures = [pool.submit(_begin, work, *arguments, **named) for _ in range(SIZE)]
        return [future.result() for future in futures]


def start(work: Callable[_P, object], *arguments: _P.args, **named: _P.kwargs) -> BaseProcess:
    """Return a process that does `work`."""
    process = _CONTEXT.Process(target=work, args=arguments, kwargs=named)
    process.start()
    return process


def semaphore() -> Semaphore:
    """Return one that such a process can release."""
    return _CONTEXT.Semaphore(0)


def _meet(start: Barrier) -> None:
    _starts.append(start)


def _begin(work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    _starts[-1].wait()
    return work(*arguments, **named)


def repeat(deed: Deed, url: str) -> int:
    """How often a deed succeeds that is done many times at once."""

    async def work() -> int:
        async with open_storage(url, StorageOptions(clock=ManualClock())) as storage:
            return sum(await asyncio.gather(*(deed(storage) for _ in range(TIMES))))

    return asyncio.run(work())
