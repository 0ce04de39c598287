"""The queue of callbacks, in SQLite: what is sent where and when, and its outcome."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from calls_mcp.emulator.database import Database, Value

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
    claimed, -- end of the claim of the emulator that sends it, in real time
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
_CLAIM = "UPDATE callbacks SET claimed = ? WHERE id = ?"
_SETTLE = "UPDATE callbacks SET outcome = ?, attempts = ?, due = NULL WHERE id = ?"


class Callback(NamedTuple):
    """A callback: a request to a URL of the customer.

    Attributes:
        id: The row.
        sid: What it is about, such as a call.
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

    def add(self, sid: str, url: str, method: str, form: Mapping[str, str], due: float) -> None:
        """Queue a callback.

        Args:
            sid: What it is about, such as a call.
            url: Where it is sent.
            method: `GET` or `POST`.
            form: The parameters, except `AccountSid`, which is added to all callbacks.
            due: When it is sent, in seconds since the epoch.
        """
        self._database.execute(_INSERT, [(sid, url, method, json.dumps(form), due, due)])

    def clear(self) -> None:
        """Delete every callback."""
        self._database.execute("DELETE FROM callbacks")

    def claim(self, count: int, seconds: float) -> list[Callback]:
        """Claim up to `count` due callbacks for `seconds` of real time.

        A callback that is not settled in that time is due again.
        """
        query = f"{_SELECT} WHERE {_IS_DUE} AND coalesce(claimed, 0) <= ?"
        with self._database.transaction() as now:
            real = time.time()
            found = self._select(f"{query} ORDER BY due, id LIMIT ?", (now, real, count))
            self._database.execute(_CLAIM, [(real + seconds, each.id) for each in found])
        return found

    def settle(self, callback_id: int, outcome: str, attempts: int) -> None:
        """Record the outcome of a delivery, and the number of attempts."""
        with self._database.transaction():
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
