"""One writer at a time, among all processes."""

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

PATIENCE = 10.0
"""Seconds for which a writer waits for others, unless told otherwise."""

_PAUSE = 0.001  # seconds

if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    _BEYOND = 2**40  # bytes: Windows locks forbid reading, so a byte is locked that never is

    def _try_lock(fd: int) -> None:
        os.lseek(fd, _BEYOND, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    def _unlock(fd: int) -> None:
        os.lseek(fd, _BEYOND, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)


@contextmanager
def locked(fd: int, patience: float = PATIENCE) -> Generator[None]:
    """Hold the lock on an open file. A process that dies lets go of it.

    Raises:
        TimeoutError: Another process has held it for `patience` seconds.
    """
    patiently(lambda: _is_locked(fd), patience)
    try:
        yield
    finally:
        _unlock(fd)


def patiently(attempt: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Try until `attempt` succeeds, in steps so short that all who wait get their turn.

    Raises:
        TimeoutError: It has not succeeded within `patience` seconds.
    """
    until = time.monotonic() + patience
    while not attempt():
        if time.monotonic() >= until:
            raise TimeoutError("another process is holding the audit log")
        time.sleep(_PAUSE)


def _is_locked(fd: int) -> bool:
    try:
        _try_lock(fd)
    except (BlockingIOError, PermissionError):  # the latter on Windows
        return False
    return True
