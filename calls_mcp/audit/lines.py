"""The log as a file of JSON lines, which several processes may write."""

import hashlib
import os
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from calls_mcp.audit.chain import START, Fields, Link, seal, sound_place
from calls_mcp.audit.locking import PATIENCE, locked
from calls_mcp.catalog import Json
from calls_mcp.replacing import require_place

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
_BLOCK = 2**16  # bytes; nearly always holds the last record
_FARTHEST = 2**20  # bytes; a whole record that lies farther back is not looked for
_OPENING = b'{"seq":'
_BEGINNING = _OPENING + b"1,"


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a file: its size in bytes, its last whole record, and the torn bytes behind it."""

    size: int
    last: Link
    torn: bytes
    in_line: bool


class LinesFile:
    """A `Sink`. The file is opened for each record, so that it may be rotated by renaming it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, fields: Mapping[str, Json], patience: float = PATIENCE) -> None:
        """Write a record behind the last whole one, and see it onto the disk.

        What a writer that was killed has left of a line is kept, and a record says so.
        """
        with _opened(self._path) as fd, locked(fd, patience):
            end = _end_of(fd)
            _write(fd, _addition(fields, end), end.size)
            if end.size == 0:
                _keep_name(self._path)

    def require_writable(self, patience: float = PATIENCE) -> None:
        """Return if a record could be written now; nothing is, and no file is made.

        Raises:
            OSError: It could not.
        """
        require_place(self._path)
        if self._path.exists():
            with _opened(self._path, _FLAGS & ~os.O_CREAT) as fd, locked(fd, patience):
                _end_of(fd)

    def close(self) -> None:
        """Nothing is held open."""


@contextmanager
def _opened(path: Path, flags: int = _FLAGS) -> Generator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("it is not a regular file")
        yield fd
    finally:
        os.close(fd)


def _addition(fields: Mapping[str, Json], end: _End) -> bytes:
    lines = ["\n"] if end.in_line else []
    last = end.last
    if end.torn:
        recovery = seal(_recovery(fields, end.torn), last)
        lines.append(recovery.line + "\n")
        last = recovery.link
    return "".join([*lines, seal(fields, last).line, "\n"]).encode()


def _recovery(fields: Mapping[str, Json], torn: bytes) -> Fields:
    digest = hashlib.sha256(torn).hexdigest()
    return {
        "time": fields["time"],
        "phase": "recovered",
        "arguments": {"torn_bytes": len(torn), "torn_sha256": digest},
    }


def _end_of(fd: int) -> _End:
    size = os.fstat(fd).st_size
    length = min(size, _BLOCK)
    while True:
        block = _read(fd, size - length, length)
        last, torn = _last_in(block)
        if last is not None or length == size:
            break
        if length >= _FARTHEST:
            raise OSError("the file does not end as an audit log does")
        length = min(size, length * 4)
    if last is None and not block.startswith(_BEGINNING[: len(block)]):
        raise OSError("the file is not an audit log")
    return _End(size, last or START, torn, in_line=bool(block) and not block.endswith(b"\n"))


def _last_in(block: bytes) -> tuple[Link | None, bytes]:
    """The last whole record in `block`, and what lies behind its line."""
    end = len(block)
    while end > 0:
        start = block.rfind(b"\n", 0, end) + 1
        link = sound_place(block[start:end]) if block.startswith(_OPENING, start) else None
        if link is not None:
            return link, block[end + 1 :]
        end = start - 1
    return None, block


def _read(fd: int, offset: int, length: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)
    parts: list[bytes] = []
    while length and (part := os.read(fd, length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _write(fd: int, data: bytes, size: int) -> None:
    """Append `data` to a file of `size` bytes, all of it or nothing."""
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    except OSError:
        with suppress(OSError):  # what can't be taken back, the next writer recovers from
            os.ftruncate(fd, size)
        raise


def _keep_name(path: Path) -> None:
    """See the name of a new file onto the disk, where directories can be opened for that."""
    if os.name != "posix":
        return
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
