"""Standard input and output as pipes of the event loop, with no thread between it and a client."""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self

_LONGEST_LINE = 2**26  # bytes
_LARGEST_WRITE = 2**18  # bytes; as many as a result has at most, with its text
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Lines(AsyncIterator[str]):
    """The lines of standard input."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def __aiter__(self) -> Self:
        """The lines that are still to come."""
        return self

    async def __anext__(self) -> str:
        """The next line; one that is too long is dropped, and what is left of it is no message."""
        try:
            line = await self._reader.readline()
        except ValueError:
            return ""
        if not line:
            raise StopAsyncIteration
        return line.decode("utf-8", "replace")


class Output:
    """Standard output."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, text: str) -> None:
        """Have `text` written."""
        self._writer.write(text.encode())

    async def flush(self) -> None:
        """Wait until there is room for more."""
        await self._writer.drain()

    async def aclose(self) -> None:
        """Wait until the other end has taken all of it, or has gone."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


def are_pipes() -> bool:
    """Whether both are pipes or sockets, as they are between a client and its server.

    Not if one is also standard error: that would no longer wait for whoever reads it, either.
    """
    if sys.platform == "win32":
        return False
    told = _end(_STDERR)
    return all(_is_pipe(each) and _end(each) != told for each in (_STDIN, _STDOUT))


async def claim_pipes() -> tuple[Lines, Output]:
    """Both, for us alone: what else reads finds nothing, and what else is printed is an error."""
    reader = asyncio.StreamReader(_LONGEST_LINE)
    loop, incoming = asyncio.get_running_loop(), os.fdopen(os.dup(_STDIN), "rb", 0)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), incoming)
    outgoing = os.fdopen(os.dup(_STDOUT), "wb", 0)
    _widen(outgoing.fileno())
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), outgoing
    )
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _STDIN)
    os.close(nothing)
    os.dup2(_STDERR, _STDOUT)
    return Lines(reader), Output(asyncio.StreamWriter(transport, protocol, None, loop))


def _widen(descriptor: int) -> None:
    """Have a pipe take a whole list at once, where the system lets us."""
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415  # there is none on Windows

        with suppress(OSError):  # it is a socket, or its user has too much of them
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _LARGEST_WRITE)


def _end(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
