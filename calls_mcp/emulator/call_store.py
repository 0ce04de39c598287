"""The account's calls, in SQLite.

No timer advances calls. Each transaction first advances the calls that are due, so a filter on the
status is plain SQL.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

from calls_mcp.emulator import callback_queue
from calls_mcp.emulator.call_lifecycle import Call, CallEvent, advanced, due
from calls_mcp.emulator.call_parameters import event_callbacks
from calls_mcp.emulator.callback_queue import CallbackQueue
from calls_mcp.emulator.clock import Clock
from calls_mcp.emulator.database import Database, Row, Value

_COLUMNS = ", ".join(f'"{name}"' for name in Call._fields)
_MARKS = ", ".join(f"?{position}" for position in range(1, len(Call._fields) + 2))
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
_UPDATE = f"UPDATE calls SET ({_COLUMNS}, due) = ({_MARKS}) WHERE sid = ?1"  # noqa: S608 - our own column names

Column = Literal["to", "from_", "parent_call_sid", "status", "started", "ended"]


class Filter(NamedTuple):
    """A condition on the listed calls, such as `started >= 1893499200.0`."""

    column: Column
    operator: Literal["=", "<", "<=", ">="]
    value: str | float


class Anchor(NamedTuple):
    """A position in the list, next to the call with this sequence number."""

    side: Literal["older", "newer"]
    seq: int


class Page(NamedTuple):
    """Neighbouring calls of the list, newest first.

    Attributes:
        calls: The calls.
        newer: The position before the first of them, None if the page is empty.
        older: The position after the last of them, None if no older call follows.
    """

    calls: tuple[Call, ...] = ()
    newer: Anchor | None = None
    older: Anchor | None = None


class CallStore:
    """The account's calls and their callbacks, always up to date with the clock.

    The list is in order of arrival, so positions stay valid while new calls arrive. It is read
    backwards from the newest call or from an anchor. A walk over all pages reads the table once,
    whatever the filter. A rare number costs one pass over it (20 ms for 100,000 calls).

    Several threads can use a store, and several processes a file. Every method commits before it
    returns.

    Attributes:
        callbacks: The callbacks to the customer's URLs.

    Raises:
        sqlite3.Error: The file cannot be opened, or has other tables.
    """

    def __init__(self, database: str, clock: Clock) -> None:
        schema = (*_SCHEMA, *callback_queue.SCHEMA)
        self._database = Database(database, clock, schema, self._advance)
        self.callbacks = CallbackQueue(self._database)

    def close(self) -> None:
        """Close the database. A file keeps its contents."""
        self._database.close()

    def transaction(self) -> AbstractContextManager[float]:
        """Open or join a transaction of this thread, with all calls up to date. Yield the time."""
        return self._database.transaction()

    def clear(self) -> None:
        """Delete every call and every callback."""
        with self.transaction():
            self._database.execute("DELETE FROM calls")
            self.callbacks.clear()

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
        return self.page((), self.count()).calls

    def last_change(self) -> float:
        """Return the time of the latest change of any call, 0 without calls."""
        return self._database.number("SELECT max(updated) FROM calls")

    def last_ring_at(self) -> float:
        """Return when the last call in the queue is dialled, 0 if the queue is empty."""
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

    def page(self, filters: Sequence[Filter], size: int, anchor: Anchor | None = None) -> Page:
        """Return the calls that match all filters: the newest ones, or those next to the anchor.

        Args:
            filters: The conditions that all calls meet.
            size: The maximum number of calls.
            anchor: A position in the list, None for its start.
        """
        with self.transaction():
            found = self._select(filters, size, anchor)
            if not found:
                return Page()
            newer, older = Anchor("newer", found[0][0]), Anchor("older", found[-1][0])
            at_the_end = len(found) < size and (anchor is None or anchor.side == "older")
            more = not at_the_end and bool(self._select(filters, 1, older))
        calls = tuple(Call._make(call) for _, *call in found)
        return Page(calls, newer, older if more else None)

    def _select(self, filters: Sequence[Filter], size: int, anchor: Anchor | None) -> list[Row]:
        conditions = [f'"{each.column}" {each.operator} ?' for each in filters]
        values = [each.value for each in filters]
        backwards = anchor is not None and anchor.side == "newer"
        if anchor is not None:
            conditions.append("seq > ?" if backwards else "seq < ?")
            values.append(anchor.seq)
        where, order = " AND ".join(conditions) or "true", "ASC" if backwards else "DESC"
        found = self._database.rows(
            f"{_SELECT} WHERE {where} ORDER BY seq {order} LIMIT ?", (*values, size)
        )
        return found[::-1] if backwards else found

    def _advance(self, now: float) -> None:
        late = self._database.rows(f"{_SELECT} WHERE due <= ? ORDER BY due, seq", (now,))
        self._write(_UPDATE, [Call._make(row[1:]) for row in late])

    def _write(self, statement: str, calls: Iterable[Call]) -> None:
        """Write calls in their present state, and a callback for each event until now."""
        events: list[CallEvent] = []

        def rows(now: float) -> Generator[tuple[Value, ...]]:
            for call in calls:
                present, passed = advanced(call, now)
                events.extend(passed)
                yield (*present, due(present))

        with self.transaction() as now:
            self._database.execute(statement, rows(now))
            for event in events:
                for url, method, form in event_callbacks(event):
                    self.callbacks.add(event.call.sid, url, method, form, event.call.updated)
