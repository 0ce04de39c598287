"""Serve one client over stdin and stdout, until either side ends the connection.

If both are pipes, the event loop reads and writes them directly, because the SDK's transport, which
is used for terminals and files, switches threads three times per call.
"""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import anyio
import orjson
from anyio import BrokenResourceError, EndOfStream
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import (
    JSONRPCMessage,
    JSONRPCResponse,
)

from calls_mcp.observability import stderr
from calls_mcp.server.unreadable_messages import ReadableMessages, Unreadable, parse
from calls_mcp.service.runtime import Runtime
from calls_mcp.service.signals import receive_signals

_GRACE = 3  # seconds
_ANSWER = 1.5  # seconds after a signal: clients kill the process after two
_LONGEST_LINE = 2**26  # bytes
_LARGEST_WRITE = 2**18  # bytes; the largest result with its text
_STDIN, _STDOUT, _STDERR = 0, 1, 2


async def serve_stdio(server: Server[Any], runtime: Runtime) -> None:
    """Serve until the end of input, SIGINT or SIGTERM, and then close `runtime`.

    After a signal, a change that was sent has 1.5 seconds to finish. Otherwise it is recorded as
    unknown.
    """
    with receive_signals(_GRACE) as signals:
        async with _connected() as (incoming, outgoing):
            async with aclosing(runtime), anyio.create_task_group() as tasks:
                tasks.start_soon(_end_on_signal, signals, tasks.cancel_scope, runtime)
                messages = ReadableMessages(incoming, outgoing)
                await server.run(messages, outgoing, server.create_initialization_options())
                tasks.cancel_scope.cancel()
                return
            # After a signal: a thread that waits for input could not be stopped otherwise.
            stderr.flush()
            os._exit(0)


@asynccontextmanager
async def _connected() -> AsyncGenerator[tuple[Any, Any]]:
    """Yield the streams of messages from and to the client."""
    if not _are_pipes():
        async with stdio_server() as streams:
            yield streams
        return
    incoming, outgoing = await _claim_pipes()
    try:
        yield incoming, outgoing
    finally:
        await outgoing.aclose()
        with anyio.move_on_after(_GRACE, shield=True):
            await outgoing.wait_closed()


async def _end_on_signal(
    signals: AsyncIterator[int], scope: anyio.CancelScope, runtime: Runtime
) -> None:
    await anext(signals)
    scope.cancel()
    with anyio.CancelScope(shield=True):
        await runtime.finish(anyio.current_time() + _ANSWER)


class _StdinReader(ObjectReceiveStream[SessionMessage | Exception]):
    """Receives messages from stdin; invalid ones are received as errors."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message, or an error for an invalid or too long line.

        Raises:
            EndOfStream: stdin was closed.
        """
        try:
            line = await self._reader.readline()
        except ValueError:
            return Unreadable("the line is too long")
        if not line:
            raise EndOfStream
        try:
            return SessionMessage(_parse(line))
        except ValueError as unreadable:
            return unreadable

    async def aclose(self) -> None:
        """Do nothing: the other end closes it."""


class _Writer(ObjectSendStream[SessionMessage]):
    """Sends messages to stdout."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def send(self, item: SessionMessage) -> None:
        """Write a message, and wait until the buffer has space.

        Raises:
            BrokenResourceError: The client closed the other end.
        """
        if self._writer.is_closing():
            raise BrokenResourceError
        try:
            self._writer.write(_encoded(item.message) + b"\n")
            await self._writer.drain()
        except ConnectionError as gone:
            raise BrokenResourceError from gone

    async def aclose(self) -> None:
        """Write the rest, then close."""
        self._writer.close()

    async def wait_closed(self) -> None:
        """Wait until the client has read everything, or has closed the other end."""
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class _CloseTogether(asyncio.StreamReaderProtocol):
    """Closes stdin when the client closes stdout."""

    def __init__(self, incoming: asyncio.ReadTransport) -> None:
        super().__init__(asyncio.StreamReader())
        self._incoming = incoming

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._incoming.close()


def _parse(line: bytes) -> JSONRPCMessage:
    """Return the message in a line.

    Raises:
        ValueError: It is not a JSON-RPC message.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise Unreadable("the line is not UTF-8", line.decode(errors="replace")) from None
    return parse(text)


def _encoded(message: JSONRPCMessage) -> bytes:
    """Return a message as JSON. For responses, orjson takes a quarter of pydantic's time."""
    if isinstance(message, JSONRPCResponse):
        response = {"jsonrpc": "2.0", "id": message.id, "result": message.result}
        with suppress(TypeError):  # an id of more than 64 bits
            return orjson.dumps(response)
    return message.model_dump_json(by_alias=True, exclude_unset=True).encode()


def _are_pipes() -> bool:
    """Return whether stdin and stdout are pipes or sockets, as with an MCP client.

    Two of the standard streams must not be the same file: stderr would become non-blocking, and two
    transports can't share a socket.
    """
    if sys.platform == "win32":
        return False
    files = {_identity(each) for each in (_STDIN, _STDOUT, _STDERR)}
    return len(files) == 3 and _is_pipe(_STDIN) and _is_pipe(_STDOUT)  # noqa: PLR2004


async def _claim_pipes() -> tuple[_StdinReader, _Writer]:
    """Claim stdin and stdout. Other code then reads an empty file and prints to stderr."""
    reader = asyncio.StreamReader(_LONGEST_LINE)
    loop, incoming = asyncio.get_running_loop(), os.fdopen(os.dup(_STDIN), "rb", 0)
    reading, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), incoming
    )
    outgoing = os.fdopen(os.dup(_STDOUT), "wb", 0)
    _widen(outgoing.fileno())
    transport, protocol = await loop.connect_write_pipe(lambda: _CloseTogether(reading), outgoing)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _STDIN)
    os.close(nothing)
    os.dup2(_STDERR, _STDOUT)
    sys.stdout = sys.stderr
    return _StdinReader(reader), _Writer(asyncio.StreamWriter(transport, protocol, None, loop))


def _widen(descriptor: int) -> None:
    """Enlarge a pipe if possible, so that it takes a whole list at once."""
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415  # not on Windows

        with suppress(OSError):  # it is a socket, or the user's limit is reached
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _LARGEST_WRITE)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
