"""Reply to messages on stdio that are not JSON-RPC."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import anyio
from anyio.abc import ObjectReceiveStream
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

_log = logging.getLogger(__name__)

_BYTE_ORDER_MARK = "\ufeff"
INVALID_ID = "the id must be a string or an integer"
_NOT_A_MESSAGE = "the line is not a JSON-RPC message"
_TOP_LEVEL = 2  # the length of a member's location: the model's name, and the member


class _WithId(TypedDict, total=False):
    """The id of a message, whatever it is."""

    id: object


_WITH_ID = TypeAdapter(_WithId)
_ID = TypeAdapter[RequestId](RequestId)


class Unreadable(ValueError):
    """A line that is not a message; `text` is what could be decoded of it."""

    def __init__(self, reason: str, text: str = "", code: int = PARSE_ERROR) -> None:
        super().__init__(reason)
        self.text = text
        self.code = code


def parse(text: str) -> JSONRPCMessage:
    """Return the message in a line.

    Raises:
        ValueError: It is not a JSON-RPC message.
    """
    message = jsonrpc_message_adapter.validate_json(text, by_name=False)
    # A request whose id is invalid is read as a notification, which nobody answers.
    if isinstance(message, JSONRPCNotification) and "id" in _WITH_ID.validate_json(text):
        raise Unreadable(INVALID_ID, code=INVALID_REQUEST)
    return message


class ReadableMessages(ObjectReceiveStream[SessionMessage | Exception]):
    """Receives the messages of `incoming`, and replies to everything else on `outgoing`."""

    def __init__(
        self,
        incoming: ReadStream[SessionMessage | Exception],
        outgoing: WriteStream[SessionMessage],
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    async def receive(self) -> SessionMessage:
        """Return the next message. A response that can't be read is received as an error.

        Raises:
            EndOfStream: The client closed the connection.
        """
        while True:
            item = await self._incoming.receive()
            if isinstance(item, SessionMessage):
                return item
            if (message := await self._reply(_Line.of(item))) is not None:
                return message

    async def aclose(self) -> None:
        """Close the incoming stream."""
        await self._incoming.aclose()

    async def _reply(self, line: "_Line") -> SessionMessage | None:
        if line.is_blank:
            return None
        if line.text.startswith(_BYTE_ORDER_MARK):
            return await self._without_mark(line.text.removeprefix(_BYTE_ORDER_MARK))
        _log.warning("could not read a line from the client: %s", line.reason)
        if line.is_response:
            return SessionMessage(line.error())
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._outgoing.send(SessionMessage(line.error()))
        return None

    async def _without_mark(self, text: str) -> SessionMessage | None:
        try:
            return SessionMessage(parse(text))
        except ValueError as error:
            return await self._reply(_Line.of(error))


@dataclass(frozen=True, slots=True)
class _Line:
    """What is known of a line that is not a message: its text, or its members if it is JSON."""

    code: int
    reason: str
    text: str
    members: Mapping[str, object]

    @classmethod
    def of(cls, error: Exception) -> "_Line":
        """Return the line that could not be read because of `error`."""
        if isinstance(error, ValidationError):
            faults = error.errors(include_url=False)
            if faults[0]["type"] == "json_invalid":
                text = str(faults[0]["input"])
                reason = str(faults[0].get("ctx", {}).get("error", "invalid JSON"))
                return cls(PARSE_ERROR, reason, text, _members(text))
            whole = [
                cast("object", fault["input"])
                for fault in faults
                if fault["type"] == "missing" and len(fault["loc"]) == _TOP_LEVEL
            ]
            members = cast("dict[str, object]", whole[0]) if whole else {}
            return cls(INVALID_REQUEST, _NOT_A_MESSAGE, "", members)
        if isinstance(error, Unreadable):
            return cls(error.code, str(error), error.text, _members(error.text))
        return cls(PARSE_ERROR, _NOT_A_MESSAGE, "", {})

    @property
    def is_blank(self) -> bool:
        """Return whether there is nothing in the line."""
        return self.reason.startswith("EOF while parsing") and not self.text.strip(" \t\r\n")

    @property
    def is_response(self) -> bool:
        """Return whether it responds to a request of the server."""
        has_result = not self.members.keys().isdisjoint(("result", "error"))
        return has_result and "method" not in self.members and _id_in(self.members) is not None

    def error(self) -> JSONRPCError:
        """Return the error that responds to it."""
        what = "Parse error" if self.code == PARSE_ERROR else "Invalid Request"
        error = ErrorData(code=self.code, message=f"{what}: {self.reason}")
        return JSONRPCError(jsonrpc="2.0", id=_id_in(self.members), error=error)


def _members(text: str) -> dict[str, object]:
    """Return the members of an object that Python accepts, such as one with a lone surrogate."""
    with suppress(ValueError, RecursionError):
        value: object = json.loads(text)
        return cast("dict[str, object]", value) if isinstance(value, dict) else {}
    return {}


def _id_in(members: Mapping[str, object]) -> RequestId | None:
    """Return the id of a message if it has a valid one, which can be sent back."""
    try:
        return _ID.validate_json(json.dumps(members.get("id")))
    except ValidationError:
        return None
