"""Lines on stdio that are not JSON-RPC messages."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCRequest

from calls_mcp.server.unreadable_messages import ReadableMessages, Unreadable, parse

PARSE_ERROR, INVALID_REQUEST = -32700, -32600
REQUEST = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}


async def exchange(*lines: str) -> tuple[list[Any], list[dict[str, Any]]]:
    """Send lines; return the messages that the server receives, and its replies."""
    to_reader, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](99)
    outgoing, replies = anyio.create_memory_object_stream[SessionMessage](99)
    with to_reader, incoming, outgoing, replies:
        for line in lines:
            try:
                to_reader.send_nowait(SessionMessage(parse(line)))
            except ValueError as error:
                to_reader.send_nowait(error)
        to_reader.close()
        received = [item.message async for item in _all(ReadableMessages(incoming, outgoing))]
        outgoing.close()
        sent = [
            json.loads(item.message.model_dump_json(exclude_unset=True)) async for item in replies
        ]
        return received, sent


async def _all(stream: ReadableMessages) -> AsyncIterator[SessionMessage]:
    async for item in stream:
        assert isinstance(item, SessionMessage)
        yield item


def nested(depth: int, **members: object) -> str:
    """A request whose arguments are nested."""
    text = json.dumps(REQUEST | {"params": {"deep": "HERE"}} | members)
    return text.replace('"HERE"', "[" * depth + "]" * depth)


@pytest.mark.anyio
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("key", ["id", "\\u0069d", "i\\u0064"])
@pytest.mark.parametrize("invalid", ["null", "1.5", "1.0", "1e3", "true", "{}", "[1]"])
async def test_a_request_with_an_invalid_id_is_answered(mark: str, key: str, invalid: str) -> None:
    line = f'{mark}{{"jsonrpc": "2.0", "{key}": {invalid}, "method": "tools/list"}}'
    received, replies = await exchange(line)
    assert received == []
    assert [(reply["id"], reply["error"]["code"]) for reply in replies] == [(None, -32600)]


@pytest.mark.anyio
async def test_a_notification_with_an_id_in_its_params_is_received() -> None:
    notification = {"jsonrpc": "2.0", "method": "notifications/x", "params": {"id": None}}
    received, replies = await exchange(json.dumps(notification))
    assert len(received) == 1
    assert replies == []


@pytest.mark.anyio
async def test_a_byte_order_mark_is_skipped() -> None:
    received, replies = await exchange("\ufeff" + json.dumps(REQUEST))
    assert replies == []
    assert isinstance(received[0], JSONRPCRequest)
    assert received[0].id == 7


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("line", "identifier", "code"),
    [
        (json.dumps(REQUEST | {"params": {"to": "\ud83d"}}), 7, PARSE_ERROR),
        (nested(300), 7, PARSE_ERROR),
        (nested(100_000), None, PARSE_ERROR),
        ('{"method": "tools/list", "params": {"id": 1}, "id": 7, oops', None, PARSE_ERROR),
        ('{"jsonrpc": "2.0", "\\u0069d": "a\\"b", "x": "\\ud800"}', 'a"b', PARSE_ERROR),
        (json.dumps(REQUEST | {"params": 5}), 7, INVALID_REQUEST),
        (json.dumps({"id": 7, "method": "tools/list"}), 7, INVALID_REQUEST),
        ("\ufeff{", None, PARSE_ERROR),
        ("hello", None, PARSE_ERROR),
        ('{"jsonrpc": "2.0", "method": "ping", "params": {"id": 3}', None, PARSE_ERROR),
        ('{"jsonrpc": "2.0", "id": 1.5, oops', None, PARSE_ERROR),
        ('{"jsonrpc": "2.0", "id": "\\ud83d", "method": "ping"}', None, PARSE_ERROR),
        (json.dumps([REQUEST]), None, INVALID_REQUEST),
        ("5", None, INVALID_REQUEST),
    ],
)
async def test_an_unreadable_line_is_answered_and_logged(
    line: str, identifier: object, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        received, (reply,) = await exchange(line, json.dumps(REQUEST))
    assert (reply["id"], reply["error"]["code"]) == (identifier, code)
    assert [message.id for message in received] == [7]
    assert "could not read a line from the client" in caplog.text


@pytest.mark.anyio
async def test_an_unreadable_response_is_received_as_an_error_and_not_answered() -> None:
    (received,), replies = await exchange('{"jsonrpc": "2.0", "id": 3, "result": {"a": "\\ud800"}}')
    assert replies == []
    assert isinstance(received, JSONRPCError)
    assert received.id == 3


@pytest.mark.anyio
async def test_a_blank_line_is_ignored() -> None:
    assert await exchange("", "\r", "  ") == ([], [])


@pytest.mark.anyio
@given(st.text())
async def test_any_line_is_received_or_answered_once(line: str) -> None:
    received, replies = await exchange(line)
    assert len(received) + len(replies) == (1 if line.strip(" \t\r\n") else 0)


@pytest.mark.anyio
async def test_an_error_without_a_line_has_no_id() -> None:
    to_reader, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](1)
    outgoing, replies = anyio.create_memory_object_stream[SessionMessage](1)
    with to_reader, incoming, outgoing, replies:
        to_reader.send_nowait(Unreadable("not UTF-8"))
        to_reader.close()
        with pytest.raises(anyio.EndOfStream):
            await ReadableMessages(incoming, outgoing).receive()
        reply = replies.receive_nowait().message
    assert isinstance(reply, JSONRPCError)
    assert (reply.id, reply.error.message) == (None, "Parse error: not UTF-8")
