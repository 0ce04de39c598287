"""Tasks that run in the background of a server."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context

import anyio
from anyio.abc import TaskGroup

_log = logging.getLogger(__name__)

Job = Callable[[], Awaitable[None]]


class BackgroundTasks:
    """Runs tasks outside the context of the request that started them."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._context = copy_context()

    def start(self, job: Job) -> None:
        """Run `job` until it ends or the server stops. An exception is logged."""
        self._context.copy().run(self._tasks.start_soon, _log_failure, job)


@asynccontextmanager
async def open_background_tasks() -> AsyncGenerator[BackgroundTasks]:
    """Yield `BackgroundTasks`; on exit, cancel those that are still running."""
    async with anyio.create_task_group() as tasks:
        yield BackgroundTasks(tasks)
        tasks.cancel_scope.cancel()


async def _log_failure(job: Job) -> None:
    try:
        await job()
    except Exception:  # noqa: BLE001  # a failed task must not end the server
        _log.exception("a background task failed")
