"""SIGINT and SIGTERM: the first one begins the shutdown, which always ends in time."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from types import FrameType

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream


@contextmanager
def receive_signals(grace: float) -> Generator[MemoryObjectReceiveStream[int]]:
    """Yield a stream of signals. The process exits at most `grace` seconds after the first.

    The handler belongs to the process and not to the event loop, so that it runs even while the
    loop is stuck in a system call.
    """
    loop = asyncio.get_running_loop()
    sending, receiving = anyio.create_memory_object_stream[int](inf)
    last_resort = threading.Timer(grace, os._exit, (0,))
    last_resort.daemon = True

    def handle(number: int, _frame: FrameType | None) -> None:
        if last_resort.ident is None:
            last_resort.start()
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(sending.send_nowait, number)

    with sending, receiving, handled_by(handle):
        yield receiving


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    """Call `handler` on SIGINT and SIGTERM while the context is open, on Windows too."""
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, handler))
        yield
