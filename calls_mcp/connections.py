"""HTTP connections that wait only so long for what a client sends, or reads."""

import asyncio
import sys
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from calls_mcp import telemetry

_STATUS = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
_ANSWERED = 50  # connections beyond the limit that are told so, and probes
_OTHER_FILES = 100
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\n"
    b"connection: close\r\n\r\n"
)


class Crowd:
    """How many connections are open, of `most`.

    Uvicorn's own limit would keep out probes of the server's health, too.
    """

    def __init__(self, most: int) -> None:
        self._size = 0
        self._most = most

    @property
    def is_far_too_large(self) -> bool:
        """Whether there are more than could be answered that there are too many."""
        return self._size > self._most + _ANSWERED

    def count(self, difference: int) -> None:
        """Take note of a connection that was opened (1) or closed (-1)."""
        self._size += difference

    @property
    def is_too_large(self) -> bool:
        """Whether there are more than there may be."""
        return self._size > self._most


class PatientConnection(H11Protocol):
    """Uvicorn's protocol, which has no time limits of its own for slow clients.

    `patience` is how long the head of a request may take to come, and what is sent to be read at
    all, in seconds. `crowd` counts the connections.
    """

    patience: float = 10
    crowd: Crowd
    _waiting: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take the connection on, and wait for the first request."""
        super().connection_made(transport)
        self.crowd.count(1)
        if self.crowd.is_far_too_large:
            transport.abort()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what came, and wait for the rest of a head that is not whole yet."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait()
        elif not self._is_answered_early:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Go on with the next request, as soon as the whole of this one has come."""
        super().on_response_complete()
        if self._is_answered_early:
            self._stop_waiting()
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the connection go."""
        self.crowd.count(-1)
        self._stop_waiting()
        self._is_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a client that does not read, for a while."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with a client that reads."""
        self._is_read()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request; a head that is too large has a status of its own."""
        error = sys.exception()
        telemetry.refused(_STATUS if _is_too_large(error) else HTTPStatus.BAD_REQUEST, "")
        if _is_too_large(error):
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        else:
            super().send_400_response(msg)

    @property
    def _is_answered_early(self) -> bool:
        """Whether the body of a request that was answered is still to come."""
        return self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(self.patience, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def _is_too_large(error: BaseException | None) -> bool:
    return isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == _STATUS


def places(wanted: int) -> int:
    """How many connections there can be, of those that are wanted, by what the system allows.

    As many files may be open as the process can get allowed; some of them are for other things.
    """
    if sys.platform == "win32":
        return wanted
    import resource  # noqa: PLC0415  # there is none on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _ANSWERED + _OTHER_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, max(1, soft - _ANSWERED - _OTHER_FILES))
