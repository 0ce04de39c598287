"""Run jobs beside the requests of a server."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context

import anyio
from anyio.abc import TaskGroup

_log = logging.getLogger(__name__)

Job = Callable[[], Awaitable[None]]


class Background:
    """Runs jobs outside of the context of the request that started them."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._context = copy_context()

    def start(self, job: Job) -> None:
        """Run `job` until it ends, or the server does."""
        self._context.copy().run(self._tasks.start_soon, _contained, job)


@asynccontextmanager
async def background() -> AsyncGenerator[Background]:
    """Yield what runs jobs until the context is left."""
    async with anyio.create_task_group() as tasks:
        yield Background(tasks)
        tasks.cancel_scope.cancel()


async def _contained(job: Job) -> None:
    try:
        await job()
    except Exception:  # noqa: BLE001  # one that fails must not take the server along
        _log.exception("what went on beside the requests failed")
