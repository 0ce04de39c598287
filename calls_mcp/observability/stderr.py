"""Write to stderr without ever blocking the caller, even if nobody reads it.

One daemon thread does the writing. When the pipe behind stderr is full, only that thread waits.
"""

import atexit
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Full, Queue

_MAX_PENDING = 1000  # jobs
_FLUSH_TIMEOUT = 1.0  # seconds, at the end of the process

_queue: "Queue[Callable[[], None]]" = Queue(_MAX_PENDING)
_starting = threading.Lock()
_thread: threading.Thread | None = None
_dropped = 0


def write_soon(text: str) -> None:
    """Write `text` soon; drop it, and count that, if too much is pending already."""
    global _dropped  # noqa: PLW0603  # one stderr, one count
    _start()
    try:
        _queue.put_nowait(partial(_write_lines, _dropped, text))
    except Full:
        _dropped += 1
    else:
        _dropped = 0


def run_in_writer(job: Callable[[], None], timeout: float) -> None:
    """Run `job`, which calls `write`, in the writing thread; return once it is done.

    Raises:
        TimeoutError: It was not done within `timeout` seconds. If its turn had not come, it never
            will be.
        OSError: As `job` raises it.
    """
    _start()
    until = time.monotonic() + timeout
    done: Future[None] = Future()
    try:
        _queue.put(partial(_settle, done, job), timeout=max(0, timeout))
    except Full:
        raise TimeoutError("nobody reads stderr") from None
    try:
        done.result(max(0, until - time.monotonic()))
    except TimeoutError:
        if done.cancel() or not done.done():
            raise TimeoutError("nobody reads stderr") from None
        done.result()


def write(text: str) -> None:
    """Write `text` to stderr; this blocks, so call it only from a job.

    Raises:
        OSError: stderr is closed, or there is none.
    """
    stream = sys.stderr
    if stream is None:  # under pythonw
        raise OSError("there is no stderr")
    try:
        descriptor = stream.fileno()
    except (io.UnsupportedOperation, ValueError):  # stderr was replaced, or closed
        stream.write(text)
        stream.flush()
        return
    # Not through the stream: its lock, held while a write blocks, would keep Python from exiting.
    data = text.encode(errors="backslashreplace")
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another process that has the pipe, too, made it so
            select.select([], [descriptor], [])


def flush(timeout: float = _FLUSH_TIMEOUT) -> None:
    """Wait until all that is pending is written, for `timeout` seconds at most."""
    global _dropped
    if _thread is None:
        return
    dropped, _dropped = _dropped, 0
    with suppress(OSError):
        run_in_writer(partial(_write_lines, dropped, ""), timeout)


def _start() -> None:
    global _thread  # noqa: PLW0603  # one stderr, one thread
    with _starting:
        if _thread is None:
            _thread = threading.Thread(target=_work, name="stderr", daemon=True)
            _thread.start()
            atexit.register(flush)


def _work() -> None:
    while True:
        _queue.get()()


def _write_lines(dropped: int, text: str) -> None:
    note = (
        f"calls-mcp: {dropped} log lines were dropped because nobody read stderr\n"
        if dropped
        else ""
    )
    with suppress(OSError, ValueError):  # nobody is left to tell
        write(note + text)


def _settle(done: "Future[None]", job: Callable[[], None]) -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        job()
    except BaseException as error:  # noqa: BLE001  # it is raised again where it is waited for
        done.set_exception(error)
    else:
        done.set_result(None)
