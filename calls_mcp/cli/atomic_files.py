"""Replace a file atomically."""

import os
import stat
from contextlib import suppress
from pathlib import Path


def replace_file(file: Path, data: bytes) -> None:
    """Replace the content of `file`, keeping its mode and owner. A new file gets mode 0600.

    Raises:
        OSError: The file can't be replaced; it still has the old content.
    """
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        _write(new, data)
        _copy_owner(new, file)
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


def _copy_owner(new: Path, old: Path) -> None:
    try:
        was = old.stat()
    except FileNotFoundError:
        return
    if os.name == "posix" and (was.st_uid, was.st_gid) != (new.stat().st_uid, new.stat().st_gid):
        os.chown(new, was.st_uid, was.st_gid)
    new.chmod(stat.S_IMODE(was.st_mode))
