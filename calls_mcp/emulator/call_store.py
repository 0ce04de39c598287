"""The account's calls, in SQLite.

No timer advances calls. Each transaction first advances the calls that are due, so a filter on the
status is plain SQL.
"""

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol

from calls_mcp.emulator import callbacks, recording_store, transcripts
from calls_mcp.emulator.call_lifecycle import Call, CallEvent, advanced, due
from calls_mcp.emulator.callbacks import CallbackQueue, event_callbacks
from calls_mcp.emulator.clock import Clock
from calls_mcp.emulator.recording_store import RecordingOptions, Recordings
from calls_mcp.emulator.sqlite_database import Anchor, Database, Filter, Page, Value, read_page
from calls_mcp.emulator.transcripts import Transcripts

_BATCH = 1000  # calls

_COLUMNS = ", ".join(f'"{name}"' for name in Call._fields)
_MARKS = ", ".join(f":{name}" for name in (*Call._fields, "due"))
_SCHEMA = (
    f"""CREATE TABLE IF NOT EXISTS calls (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    {_COLUMNS},
    due, -- when the call changes next by itself, NULL if it never does
    UNIQUE (sid)
)""",
    "CREATE INDEX IF NOT EXISTS calls_due ON calls (due) WHERE due IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS calls_by_status ON calls (status)",
    "CREATE INDEX IF NOT EXISTS calls_by_parent ON calls (parent_call_sid)",
)
_SELECT = f"SELECT seq, {_COLUMNS} FROM calls"  # noqa: S608 - our own column names
_INSERT = f"INSERT INTO calls ({_COLUMNS}, due) VALUES ({_MARKS})"  # noqa: S608 - our own column names
_UPDATE = f"UPDATE calls SET ({_COLUMNS}, due) = ({_MARKS}) WHERE sid = :sid"  # noqa: S608 - our own column names


class Timers(Protocol):
    """What happens in calls besides the changes of their records."""

    def next_due(self) -> float:
        """Return when something happens next, infinity if nothing will."""
        ...

    def run(self, now: float) -> None:
        """Handle everything until now."""
        ...

    def changed(self, call: Call) -> None:
        """Take note of a call that is being written, without writing anything."""
        ...


class CallStore:
    """The account's calls and their callbacks, always up to date with the clock.

    The list is in order of arrival, so positions stay valid while new calls arrive. It is read
    backwards from the newest call or from an anchor. A walk over all pages reads the table once,
    whatever the filter. A page of a rare number reads the whole table (20 ms for 100,000 calls).

    Several threads can use a store. Every method commits before it returns.

    Attributes:
        callbacks: The callbacks to the customer's URLs.
        recordings: The recordings of the calls.
        transcripts: What happened in the calls.
        timers: What happens in calls besides the changes of their records.

    Raises:
        sqlite3.Error: The file cannot be opened, has other tables, or is in use.
    """

    def __init__(self, database: str, clock: Clock) -> None:
        self.timers: Timers | None = None
        schema = (
            *_SCHEMA,
            *callbacks.SCHEMA,
            *recording_store.SCHEMA,
            *transcripts.SCHEMA,
        )
        self._database = Database(database, clock, schema, self._advance)
        self.callbacks = CallbackQueue(self._database)
        self.recordings = Recordings(self._database, self.callbacks)
        self.transcripts = Transcripts(self._database)

    def close(self) -> None:
        """Close the database. A file keeps its contents."""
        self._database.close()

    def transaction(self) -> AbstractContextManager[float]:
        """Open or join a transaction of this thread, with all calls up to date. Yield the time."""
        return self._database.transaction()

    @property
    def now(self) -> float:
        """The time of the present transaction."""
        return self._database.now

    def next_due(self) -> float:
        """Return when something happens next by itself, infinity if nothing will."""
        found = self._database.rows("SELECT min(due) FROM calls WHERE due IS NOT NULL")[0][0]
        due = float("inf") if found is None else found
        return due if self.timers is None else min(due, self.timers.next_due())

    def clear(self) -> None:
        """Delete every call, callback and recording."""
        with self.transaction():
            self._database.execute("DELETE FROM calls")
            self.callbacks.clear()
            self.recordings.clear()
            self.transcripts.clear()

    def count(self) -> int:
        """Return the number of calls."""
        return int(self._database.number("SELECT count(*) FROM calls"))

    def get(self, sid: str) -> Call | None:
        """Return the call with this SID, None if there is none."""
        with self.transaction():
            found = self._database.rows(f"{_SELECT} WHERE sid = ?", (sid,))
        return Call._make(found[0][1:]) if found else None

    def all(self) -> tuple[Call, ...]:
        """Return every call, newest first."""
        return self.page((), self.count()).items

    def last_change(self) -> float:
        """Return the time of the latest change of any call, 0 without calls."""
        return self._database.number("SELECT max(updated) FROM calls")

    def last_ring_at(self) -> float:
        """Return when the last call in the queue is dialed, 0 if the queue is empty."""
        queued = "due IS NOT NULL AND status = 'queued' AND direction = 'outbound-api'"
        return self._database.number(f"SELECT max(ring_at) FROM calls WHERE {queued}")  # noqa: S608 - our own text

    def fill(self, calls: Iterable[Call]) -> bool:
        """Append calls to an empty list; return False if it is not empty."""
        with self.transaction():
            if self.count():
                return False
            self._write(_INSERT, calls)
            return True

    def add(self, *calls: Call) -> None:
        """Append calls to the list; the last one becomes the newest."""
        with self.transaction():
            self._write(_INSERT, calls)

    def update(self, call: Call) -> None:
        """Replace the call with the same SID."""
        with self.transaction():
            self._write(_UPDATE, [call])

    def delete(self, sid: str) -> None:
        """Delete a call."""
        self._database.execute("DELETE FROM calls WHERE sid = ?", [(sid,)])

    def page(
        self, filters: Sequence[Filter], size: int, anchor: Anchor | None = None
    ) -> Page[Call]:
        """Return the calls that match all filters: the newest ones, or those next to the anchor.

        Args:
            filters: The conditions that all calls meet.
            size: The maximum number of calls.
            anchor: A position in the list, None for its start.
        """
        rows, newer, older = read_page(self._database, _SELECT, filters, size, anchor)
        return Page(tuple(map(Call._make, rows)), newer, older)

    def _advance(self) -> bool:
        """Let everything happen that is due, in order. Return whether anything was."""
        now, changed = self._database.now, False
        while (at := self.next_due()) <= now:
            self._database.now, changed = at, True
            late = self._database.rows(f"{_SELECT} WHERE due <= ? ORDER BY due, seq", (at,))
            self._write(_UPDATE, [Call._make(row[1:]) for row in late])
            if self.timers is not None:
                self.timers.run(at)
        self._database.now = now
        return changed

    def _write(self, statement: str, calls: Iterable[Call]) -> None:
        """Write calls in their present state, and a callback for each event until now."""
        events: list[CallEvent] = []

        def rows(batch: Iterable[Call], now: float) -> Generator[dict[str, Value]]:
            for call in batch:
                present, passed = advanced(call, now)
                events.extend(passed)
                if self.timers is not None:
                    self.timers.changed(present)
                yield {**present._asdict(), "due": due(present)}

        remaining = iter(calls)
        with self.transaction() as now:
            while batch := tuple(islice(remaining, _BATCH)):
                self._database.execute(statement, rows(batch, now))
                for event in events:
                    self._handle(event)
                events.clear()

    def _handle(self, event: CallEvent) -> None:
        """Record the call, and queue the callbacks about an event."""
        name, call = event
        recorded: Mapping[str, str] = {}
        if name == "answered" and call.records:
            options = RecordingOptions(*json.loads(call.records))
            self.recordings.start(call.sid, "OutboundAPI", call.updated, options)
        if name == "completed":
            for recording in self.recordings.live(call.sid):
                recorded = self.recordings.summary(self.recordings.stop(recording, call.updated))
        for url, method, form in event_callbacks(event):
            self.callbacks.add(call.sid, url, method, {**form, **recorded}, call.updated)
