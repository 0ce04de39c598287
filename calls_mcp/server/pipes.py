"""Standard input and output as pipes of the event loop, with no thread between it and a client."""

import asyncio
import os
import stat
import sys
from contextlib import suppress

import orjson
from anyio import BrokenResourceError, EndOfStream
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCMessage, JSONRPCResponse, jsonrpc_message_adapter

_LONGEST_LINE = 2**26  # bytes
_LARGEST_WRITE = 2**18  # bytes; as many as a result has at most, with its text
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Incoming(ObjectReceiveStream[SessionMessage | Exception]):
    """The messages on standard input, and what stands there in the place of one."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def receive(self) -> SessionMessage | Exception:
        """The next message; a line that is too long is dropped, and its end is no message.

        Raises:
            EndOfStream: There are no more.
        """
        try:
            line = await self._reader.readline()
            if not line:
                raise EndOfStream
            text = line.decode("utf-8", "replace")
            return SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False))
        except ValueError as malformed:
            return malformed

    async def aclose(self) -> None:
        """Nothing: whoever is at the other end closes it."""


class Outgoing(ObjectSendStream[SessionMessage]):
    """The messages on standard output."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def send(self, item: SessionMessage) -> None:
        """Write a message, and wait until there is room for more.

        Raises:
            BrokenResourceError: Nobody reads any more.
        """
        if self._writer.is_closing():
            raise BrokenResourceError
        try:
            self._writer.write(_encoded(item.message) + b"\n")
            await self._writer.drain()
        except ConnectionError as gone:
            raise BrokenResourceError from gone

    async def aclose(self) -> None:
        """Write what is left."""
        self._writer.close()

    async def wait_closed(self) -> None:
        """Wait until the other end has taken all of it, or has gone."""
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class _WhileRead(asyncio.StreamReaderProtocol):
    """Closes what is read here once it shows that nobody reads what is written."""

    def __init__(self, incoming: asyncio.ReadTransport) -> None:
        super().__init__(asyncio.StreamReader())
        self._incoming = incoming

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._incoming.close()


def _encoded(message: JSONRPCMessage) -> bytes:
    """As JSON; a response, which may be long, in a quarter of the time that pydantic takes."""
    if isinstance(message, JSONRPCResponse):
        response = {"jsonrpc": "2.0", "id": message.id, "result": message.result}
        with suppress(TypeError):  # an id of more than 64 bits
            return orjson.dumps(response)
    return message.model_dump_json(by_alias=True, exclude_unset=True).encode()


def are_pipes() -> bool:
    """Whether both are pipes or sockets, as they are between a client and its server.

    Not if two of the three are one: standard error would no longer wait for whoever reads it, and
    a socket can't be read and written by two transports.
    """
    if sys.platform == "win32":
        return False
    ends = {_end(each) for each in (_STDIN, _STDOUT, _STDERR)}
    return len(ends) == 3 and _is_pipe(_STDIN) and _is_pipe(_STDOUT)  # noqa: PLR2004


async def claim_pipes() -> tuple[Incoming, Outgoing]:
    """Both, for us alone: what else reads finds nothing, and what else is printed is an error."""
    reader = asyncio.StreamReader(_LONGEST_LINE)
    loop, incoming = asyncio.get_running_loop(), os.fdopen(os.dup(_STDIN), "rb", 0)
    reading, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), incoming
    )
    outgoing = os.fdopen(os.dup(_STDOUT), "wb", 0)
    _widen(outgoing.fileno())
    transport, protocol = await loop.connect_write_pipe(lambda: _WhileRead(reading), outgoing)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _STDIN)
    os.close(nothing)
    os.dup2(_STDERR, _STDOUT)
    return Incoming(reader), Outgoing(asyncio.StreamWriter(transport, protocol, None, loop))


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
