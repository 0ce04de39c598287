"""The account's calls and the callbacks about them, kept in the database."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, cast

from calls_mcp.emulator.calls import Call, Callback
from calls_mcp.emulator.clock import Clock
from calls_mcp.emulator.database import INSERT, REPLACE, SELECT, Database
from calls_mcp.emulator.lifecycle import following

PAUSES = (1, 5, 25)
"""Seconds between the attempts at one delivery; the attempt after the last pause is the last."""

_CALLBACK = ", ".join(f'c."{name}"' for name in Callback._fields)
_DUE = f"""SELECT {_CALLBACK} FROM callbacks c WHERE due <= ? AND coalesce(held, 0) <= ?
    AND NOT EXISTS (
        SELECT 1 FROM callbacks earlier
        WHERE earlier.sid = c.sid AND earlier.sequence < c.sequence AND earlier.due IS NOT NULL
    ) ORDER BY due, id LIMIT 100"""  # noqa: S608 - our own column names
_UNSETTLED = f"SELECT EXISTS ({_DUE}) OR EXISTS (SELECT 1 FROM callbacks WHERE held > ?)"  # noqa: S608 - likewise
_LATEST = f"SELECT {_CALLBACK} FROM callbacks c ORDER BY id DESC LIMIT ?"  # noqa: S608 - likewise
_CLAIM = """UPDATE callbacks SET attempts = attempts + 1, due = ?, held = ?
    WHERE id = ? AND attempts = ? AND due IS NOT NULL"""
_SETTLE = "UPDATE callbacks SET outcome = ?, held = NULL, due = iif(?, NULL, due) WHERE id = ?"
_LAST_TURN = """SELECT max(ring_at) FROM calls
    WHERE due IS NOT NULL AND status = 'queued' AND direction = 'outbound-api'"""

Field = Literal["to", "from_", "parent_call_sid", "status", "started", "ended"]


class Criterion(NamedTuple):
    """A condition that the listed calls meet: `started >= 1893499200.0`."""

    field: Field
    operator: Literal["=", "<", "<=", ">="]
    value: str | float


class Anchor(NamedTuple):
    """A place in the list, beside the call with this sequence number."""

    side: Literal["older", "newer"]
    seq: int


class Stretch(NamedTuple):
    """Neighbouring calls of the list, newest first.

    Attributes:
        calls: The calls.
        newest: The sequence number of the first of them, 0 if there is none.
        oldest: The sequence number of the last of them, 0 if there is none.
        more: Whether older calls follow.
    """

    calls: tuple[Call, ...] = ()
    newest: int = 0
    oldest: int = 0
    more: bool = False


class Outbox:
    """The callbacks. One that was claimed and never settled is due again after its claim."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._settled = threading.Condition()

    def due(self) -> list[Callback]:
        """Return what is to be sent now. A call's second event waits for its first."""
        with self._database.present() as now:
            return [Callback._make(row) for row in self._database.rows(_DUE, (now, time.time()))]

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is to be sent now; False if something still is after that time."""
        with self._settled:
            return self._settled.wait_for(lambda: not self._has_work(), seconds)

    def _has_work(self) -> bool:
        with self._database.present() as now:
            return bool(self._database.number(_UNSETTLED, (now, *[time.time()] * 2)))

    def latest(self, count: int) -> list[Callback]:
        """Return the latest events, newest first."""
        return [Callback._make(row) for row in self._database.rows(_LATEST, (count,))]

    def claim(self, callback: Callback, seconds: float) -> bool:
        """Claim it for so many seconds of real time; False if another process was faster."""
        with self._database.present() as now:
            pause = PAUSES[min(callback.attempts, len(PAUSES) - 1)]
            claim = now + pause, time.time() + seconds, callback.id, callback.attempts
            return self._database.write(_CLAIM, claim) == 1

    def settle(self, callback: Callback, outcome: str, *, final: bool) -> None:
        """Record how an attempt went; a final one is not repeated, nor is the last."""
        over = final or callback.attempts >= len(PAUSES)
        self._database.write(_SETTLE, (outcome, over, callback.id))
        with self._settled:
            self._settled.notify_all()


class CallStore:
    """The account's calls, always as they are at the time the clock shows.

    The list is in order of arrival, so a place in it stays where it is while new calls come in.
    It is read backwards from its newest call or from an anchor: a walk over all pages reads the
    table once, whatever it is filtered by, and a rare value costs one pass over it (20 ms for
    100,000 calls).
    Safe to use from several threads, and a file from several processes. What a method has done
    is in the file when it returns.

    Attributes:
        outbox: The callbacks about the calls.

    Raises:
        sqlite3.Error: The file cannot be opened, or holds something else.
    """

    def __init__(self, database: str, clock: Clock) -> None:
        self._database = Database(database, clock)
        self.outbox = Outbox(self._database)

    def close(self) -> None:
        """Close the database; what is in a file stays there."""
        self._database.close()

    def clear(self) -> None:
        """Forget every call and every callback."""
        with self._database.present():
            self._database.write("DELETE FROM calls")
            self._database.write("DELETE FROM callbacks")

    def count(self) -> int:
        """Return the number of records."""
        return int(self._database.number("SELECT count(*) FROM calls"))

    def get(self, sid: str) -> Call | None:
        """Return the call with this SID, None without one."""
        with self._database.present():
            return self._find(sid)

    def all(self) -> tuple[Call, ...]:
        """Return every call, newest first."""
        return self.stretch((), self.count()).calls

    def latest(self) -> float:
        """Return the time of the latest change of any record, 0 if there are none."""
        return self._database.number("SELECT max(updated) FROM calls")

    def fill(self, calls: Iterable[Call]) -> bool:
        """Append records to an empty list; False if it is not empty."""
        with self._database.present() as now:
            if self._database.number("SELECT EXISTS (SELECT 1 FROM calls)"):
                return False
            self._database.write_calls(INSERT, calls, now)
            return True

    def add(self, *calls: Call) -> None:
        """Append records to the list; the last one becomes the newest."""
        with self._database.present() as now:
            self._database.write_calls(INSERT, calls, now)

    def place(
        self, make: Callable[[float, float], tuple[Call, ...]], interval: float
    ) -> tuple[Call, ...]:
        """Append the records of a call that is dialled when its turn comes.

        Args:
            make: Gets the time and the time of the turn, returns the records. If it raises,
                nothing changes.
            interval: Seconds between one call that is dialled and the next.
        """
        with self._database.present() as now:
            calls = make(now, max(now, self._database.number(_LAST_TURN)) + interval)
            self._database.write_calls(INSERT, calls, now)
            return calls

    def amend(self, sid: str, change: Callable[[Call, float], Call]) -> Call | None:
        """Change a call and, if the account has both ends of it, its other record.

        Args:
            sid: Which call.
            change: Gets the call and the time, returns the changed call. If it raises, nothing
                changes.

        Returns:
            The call afterwards, None without one.
        """
        with self._database.present() as now:
            if (call := self._find(sid)) is None:
                return None
            changed = [change(call, now)]
            if call.peer_sid and (peer := self._find(call.peer_sid)):
                changed.append(following(peer, changed[0]))
            self._database.write_calls(REPLACE, changed, now)
            return self._find(sid)

    def delete(self, sid: str, check: Callable[[Call], None]) -> bool:
        """Remove a call's record; False without one.

        Args:
            sid: Which call.
            check: Gets the call. If it raises, the record stays.
        """
        with self._database.present():
            if (call := self._find(sid)) is None:
                return False
            check(call)
            self._database.write("DELETE FROM calls WHERE sid = ?", (sid,))
            return True

    def stretch(
        self, criteria: Sequence[Criterion], size: int, anchor: Anchor | None = None
    ) -> Stretch:
        """Return the calls that meet all criteria: the newest ones, or those next to the anchor.

        Args:
            criteria: What the calls have in common.
            size: How many calls at most.
            anchor: A place in the list, None for its top.
        """
        with self._database.present():
            found = self._select(criteria, size, anchor)
            if not found:
                return Stretch()
            newest, oldest = found[0][0], found[-1][0]
            at_the_end = len(found) < size and (anchor is None or anchor.side == "older")
            more = not at_the_end and bool(self._select(criteria, 1, Anchor("older", oldest)))
        return Stretch(tuple(call for _, call in found), newest, oldest, more)

    def _select(
        self, criteria: Sequence[Criterion], size: int, anchor: Anchor | None
    ) -> list[tuple[int, Call]]:
        conditions = [f'"{each.field}" {each.operator} ?' for each in criteria]
        values = [each.value for each in criteria]
        backwards = anchor is not None and anchor.side == "newer"
        if anchor is not None:
            conditions.append("seq > ?" if backwards else "seq < ?")
            values.append(anchor.seq)
        where, order = " AND ".join(conditions) or "true", "ASC" if backwards else "DESC"
        query = f"{SELECT} WHERE {where} ORDER BY seq {order} LIMIT ?"
        rows = self._database.rows(query, (*values, size))
        found = [(cast("int", seq), Call._make(values)) for seq, *values in rows]
        return found[::-1] if backwards else found

    def _find(self, sid: str) -> Call | None:
        rows = self._database.rows(f"{SELECT} WHERE sid = ?", (sid,))
        return Call._make(rows[0][1:]) if rows else None
