"""Puts a file in another's place all at once, so that nobody ever reads a part of it."""

import os
import stat
from contextlib import suppress
from pathlib import Path


def replace_file(file: Path, data: bytes) -> None:
    """Make `data` what is in `file`, whose mode and owner stay; a new one is its owner's alone.

    Raises:
        OSError: It can't be; what was there still is.
    """
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        _write(new, data)
        _take_after(new, file)
        new.replace(file)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def _write(new: Path, data: bytes) -> None:
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _take_after(new: Path, old: Path) -> None:
    try:
        was = old.stat()
    except FileNotFoundError:
        return
    if os.name == "posix" and (was.st_uid, was.st_gid) != (new.stat().st_uid, new.stat().st_gid):
        os.chown(new, was.st_uid, was.st_gid)
    new.chmod(stat.S_IMODE(was.st_mode))
