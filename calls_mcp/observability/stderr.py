"""Write to stderr without blocking the caller, even if stderr is not read.

One daemon thread writes. When the pipe behind stderr is full, only that thread waits.
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
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MAX_PENDING = 1000  # jobs
_LONGEST = 2**16  # characters of one text
_FLUSH_TIMEOUT = 1.0  # seconds, at the end of the process

_queue: "Queue[Callable[[], None]]" = Queue(_MAX_PENDING)
_starting = threading.Lock()
_thread: threading.Thread | None = None
_dropped = 0


def never_block() -> None:
    """Have the writer thread write what Python sends to stderr: tracebacks, prints, messages."""
    if not isinstance(sys.stderr, NonBlockingStream):
        sys.stderr = NonBlockingStream(sys.stderr)


def write_soon(text: str) -> None:
    """Queue `text` for writing. If too much is pending, drop and count it. A long text is cut."""
    global _dropped  # noqa: PLW0603  # one stderr, one count
    _start()
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… ({len(text) - _LONGEST} characters left out)\n"
    try:
        _queue.put_nowait(partial(_write_lines, _dropped, text))
    except Full:
        _dropped += 1
    else:
        _dropped = 0


def run_in_writer(job: Callable[[], None], timeout: float) -> None:
    """Run `job`, which calls `write`, in the writer thread; return once it is done.

    Raises:
        TimeoutError: It was not done within `timeout` seconds. A job that has not begun then never
            runs.
        OSError: `job` raised it.
    """
    _start()
    until = time.monotonic() + timeout
    done: Future[None] = Future()
    try:
        _queue.put(partial(_settle, done, job), timeout=max(0, timeout))
    except Full:
        raise TimeoutError("stderr is not being read") from None
    try:
        done.result(max(0, until - time.monotonic()))
    except TimeoutError:
        if done.cancel() or not done.done():
            raise TimeoutError("stderr is not being read") from None
        done.result()


def write(text: str) -> None:
    """Write `text` to stderr; this blocks, so call it only from a job.

    Raises:
        OSError: stderr is closed, or there is none.
    """
    stream = sys.stderr
    if isinstance(stream, NonBlockingStream):
        stream = stream.original
    if stream is None:  # under pythonw
        raise OSError("this process has no stderr")
    try:
        descriptor = stream.fileno()
    except (io.UnsupportedOperation, ValueError):  # stderr was replaced or closed
        stream.write(text)
        stream.flush()
        return
    # Not through the stream: its lock, held while a write blocks, would keep Python from exiting.
    data = text.encode(errors="backslashreplace")
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another process with the same pipe made it non-blocking
            select.select([], [descriptor], [])


def flush(timeout: float = _FLUSH_TIMEOUT) -> None:
    """Wait at most `timeout` seconds until everything pending is written."""
    global _dropped
    if _thread is None:
        return
    dropped, _dropped = _dropped, 0
    with suppress(OSError):
        run_in_writer(partial(_write_lines, dropped, ""), timeout)


class NonBlockingStream(io.TextIOBase):
    """A text stream that passes everything to the writer thread."""

    def __init__(self, original: TextIO | None = None) -> None:
        super().__init__()
        self.original = original

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The encoding of what is written."""
        return "utf-8"

    @property
    def buffer(self) -> io.RawIOBase:
        """The same stream for bytes, which may be undecodable."""
        return _Bytes()

    def write(self, text: str, /) -> int:
        """Queue `text` for writing.

        Raises:
            TypeError: It is not a string.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        write_soon(text)
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor of the original stream."""
        if self.original is None:
            raise io.UnsupportedOperation
        return self.original.fileno()

    def isatty(self) -> bool:
        """Return whether the original stream is a terminal."""
        return self.original is not None and self.original.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True


class _Bytes(io.RawIOBase):
    """A stream of bytes that passes everything to the writer thread."""

    def write(self, data: "Buffer", /) -> int:
        """Queue `data` for writing."""
        taken = bytes(data)
        write_soon(taken.decode(errors="backslashreplace"))
        return len(taken)

    def writable(self) -> bool:
        """Return True."""
        return True


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
    lines = "1 log line" if dropped == 1 else f"{dropped} log lines"
    note = f"calls-mcp: dropped {lines} because stderr was not being read\n" if dropped else ""
    with suppress(OSError, ValueError):  # there is no other place to report it
        write(note + text)


def _settle(done: "Future[None]", job: Callable[[], None]) -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        job()
    except BaseException as error:  # noqa: BLE001  # run_in_writer raises it again
        done.set_exception(error)
    else:
        done.set_result(None)
