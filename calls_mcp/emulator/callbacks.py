"""Callbacks about calls and recordings: their parameters, their queue in SQLite, their delivery."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import NAMESPACE_URL, uuid5

from calls_mcp.emulator.addresses import country, is_phone_number
from calls_mcp.emulator.call_lifecycle import Call, CallEvent, is_reported
from calls_mcp.emulator.clock import rfc2822
from calls_mcp.emulator.credentials import API_VERSION
from calls_mcp.emulator.sqlite_database import Database, Value
from calls_mcp.emulator.webhooks import Webhooks

POLL_INTERVAL = 0.05  # seconds
CONCURRENCY = 8

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS callbacks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused, because a delivery can outlast a reset
    sid,
    url,
    method,
    form, -- a JSON object
    at, -- when it is or was due
    due, -- the same, NULL after the delivery
    attempts DEFAULT 0,
    outcome -- the HTTP status of the response, or why there was none
)""",
    "CREATE INDEX IF NOT EXISTS callbacks_due ON callbacks (due) WHERE due IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS callbacks_sid ON callbacks (sid, url) WHERE due IS NOT NULL",
)
_INSERT = "INSERT INTO callbacks (sid, url, method, form, at, due) VALUES (?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT id, sid, url, method, form, attempts, outcome FROM callbacks"
_IS_DUE = """due <= ? AND NOT EXISTS (
    SELECT 1 FROM callbacks earlier
    WHERE earlier.sid = callbacks.sid AND earlier.url = callbacks.url
    AND (earlier.at, earlier.id) < (callbacks.at, callbacks.id) AND earlier.due IS NOT NULL
)"""
_SETTLE = "UPDATE callbacks SET outcome = ?, attempts = ?, due = NULL WHERE id = ?"

_SIP_CODES: Mapping[str, str] = {
    "completed": "200",
    "busy": "486",
    "failed": "404",
    "no-answer": "487",
    "canceled": "487",
}

# Parameters


def call_parameters(call: Call) -> dict[str, str]:
    """Return the parameters of every webhook of a call, except `AccountSid`."""
    values = {
        "CallSid": call.sid,
        "From": call.from_,
        "To": call.to,
        "Caller": call.from_,
        "Called": call.to,
        "Direction": call.direction,
        "ApiVersion": API_VERSION,
        "CallStatus": call.status,
    }
    optional = {
        "AnsweredBy": call.answered_by,
        "CallerName": call.caller_name,
        "ForwardedFrom": call.forwarded_from,
        "ParentCallSid": call.parent_call_sid,
    }
    values |= {name: value for name, value in optional.items() if value}
    return values | _places(call.from_, "From", "Caller") | _places(call.to, "To", "Called")


def _places(address: str, *parties: str) -> dict[str, str]:
    """Return where a number is from. Only its country is known."""
    if not is_phone_number(address):
        return {}
    place = {"City": "", "State": "", "Zip": "", "Country": country(address)}
    return {party + name: value for party in parties for name, value in place.items()}


def event_callbacks(event: CallEvent) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Yield the URL, method and parameters of each callback about an event of a call."""
    call = event.call
    if call.callback_url and is_reported(event):
        yield call.callback_url, call.callback_method, _status_parameters(event)
    if call.amd_callback_url and event.name == "detected":
        yield call.amd_callback_url, call.amd_callback_method, _detected(call)


def _status_parameters(event: CallEvent) -> Mapping[str, str]:
    name, call = event
    values = call_parameters(call) | {
        "CallStatus": name if name in {"initiated", "ringing"} else call.status,
        "CallbackSource": "call-progress-events",
        "SequenceNumber": str(call.reported),
        "Timestamp": rfc2822(call.updated),
    }
    if name == "completed":
        seconds = call.duration or 0
        values |= {
            "CallDuration": str(seconds),
            "Duration": str((seconds + 59) // 60),
            "SipResponseCode": _SIP_CODES[call.status],
        }
    return values


def _detected(call: Call) -> Mapping[str, str]:
    milliseconds = round((call.detects_after or 0) * 1000)
    return {
        "CallSid": call.sid,
        "AnsweredBy": call.answered_by or "unknown",
        "MachineDetectionDuration": str(milliseconds),
    }


# The queue


class Callback(NamedTuple):
    """A callback: a request to a URL of the customer.

    Attributes:
        id: The row.
        sid: The resource that it reports, such as a call.
        url: Where it is sent.
        method: `GET` or `POST`.
        form: The parameters, except those that all callbacks have.
        attempts: The number of delivery attempts.
        outcome: The HTTP status of the latest response, or why there was none.
    """

    id: int
    sid: str
    url: str
    method: str
    form: Mapping[str, str]
    attempts: int
    outcome: str | None


class CallbackQueue:
    """The callbacks. Those with the same SID and URL are sent one after the other, in order."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._settled = threading.Condition(database.lock)
        self._claimed: set[int] = set()

    def add(self, sid: str, url: str, method: str, form: Mapping[str, str], due: float) -> None:
        """Queue a callback.

        Args:
            sid: The resource that it reports, such as a call.
            url: Where it is sent.
            method: `GET` or `POST`.
            form: The parameters, except `AccountSid`, which is added to all callbacks.
            due: When it is sent, in seconds since the epoch.
        """
        self._database.execute(_INSERT, [(sid, url, method, json.dumps(form), due, due)])

    def clear(self) -> None:
        """Delete every callback."""
        self._database.execute("DELETE FROM callbacks")

    def claim(self, count: int) -> list[Callback]:
        """Return up to `count` due callbacks, each only once while this emulator runs."""
        query = f"{_SELECT} WHERE {_IS_DUE} ORDER BY due, id LIMIT ?"
        with self._database.transaction() as now:
            found = self._select(query, (now, count + len(self._claimed)))
            found = [each for each in found if each.id not in self._claimed][:count]
            self._claimed.update(each.id for each in found)
        return found

    def settle(self, callback_id: int, outcome: str, attempts: int) -> None:
        """Record the outcome of a delivery, and the number of attempts."""
        with self._database.transaction():
            self._claimed.discard(callback_id)
            self._database.execute(_SETTLE, [(outcome, attempts, callback_id)])
            self._settled.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until no callback is due. Return False if one still is after `seconds`."""
        with self._settled:
            return self._settled.wait_for(lambda: not self._has_due(), seconds)

    def latest(self, count: int) -> list[Callback]:
        """Return the latest callbacks, newest first."""
        return self._select(f"{_SELECT} ORDER BY id DESC LIMIT ?", (count,))

    def _has_due(self) -> bool:
        with self._database.transaction() as now:
            return bool(self._select(f"{_SELECT} WHERE {_IS_DUE} LIMIT 1", (now,)))

    def _select(self, query: str, values: Sequence[Value]) -> list[Callback]:
        return [
            Callback(id_, sid, url, method, json.loads(form), *attempts)
            for id_, sid, url, method, form, *attempts in self._database.rows(query, values)
        ]


# Delivery


@dataclass
class CallbackSender:
    """Sends due callbacks.

    Attributes:
        queue: The callbacks.
        webhooks: Sends them.
    """

    queue: CallbackQueue
    webhooks: Webhooks
    _deliveries: "set[asyncio.Task[None]]" = field(init=False, default_factory=set)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Send while the context is open."""
        polling = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            tasks = [polling, *self._deliveries]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self) -> bool:
        """Send what is due, without waiting for the next poll. Return whether anything was."""
        has_sent = False
        while self._start():
            has_sent = True
            await asyncio.wait(self._deliveries, return_when=asyncio.FIRST_COMPLETED)
        return has_sent

    async def _poll(self) -> None:
        """Poll, because the clock can jump."""
        while True:
            self._start()
            await asyncio.sleep(POLL_INTERVAL)

    def _start(self) -> bool:
        """Start to send what is due, as far as possible. Return whether anything is being sent."""
        for callback in self.queue.claim(CONCURRENCY - len(self._deliveries)):
            delivery = asyncio.create_task(self._deliver(callback))
            self._deliveries.add(delivery)
            delivery.add_done_callback(self._deliveries.discard)
        return bool(self._deliveries)

    async def _deliver(self, callback: Callback) -> None:
        # the same if the next emulator repeats a delivery that was interrupted
        token = str(uuid5(NAMESPACE_URL, f"{callback.sid}/{callback.id}"))
        reply = await self.webhooks.send(callback.method, callback.url, callback.form, token)
        outcome = reply.failure or str(reply.status)
        self.queue.settle(callback.id, outcome, reply.attempts)
