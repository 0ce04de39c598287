"""Files of other people's: put in another's place all at once, or only looked at."""

import errno
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


def require_place(file: Path) -> None:
    """Return if `file` can be written to or, where there is none, made; nothing is done to it.

    Raises:
        OSError: It can't be.
    """
    place = file if file.exists() else file.parent
    if place != file and not place.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder {place}")
    if not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, f"{place} can't be written to")


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
