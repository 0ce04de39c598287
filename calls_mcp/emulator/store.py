"""The account's calls, kept in SQLite."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from calls_mcp.emulator.call import Call
from calls_mcp.emulator.clock import Clock
from calls_mcp.emulator.database import Database
from calls_mcp.emulator.lifecycle import following
from calls_mcp.emulator.outbox import Outbox
from calls_mcp.emulator.selection import Anchor, Criterion, selection
from calls_mcp.emulator.tables import COLUMNS, FIELDS, INSERT, LATEST_DIALLED, REPLACE, ROW

FIND = f"SELECT seq, {COLUMNS} FROM calls WHERE sid = ?"  # noqa: S608 - our own column names


@dataclass(frozen=True)
class Stretch:
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


class CallStore:
    """The account's calls, always as they are at the time the clock shows.

    The list's order is the order of arrival, so a place in it stays where it is while new
    calls come in. Safe to use from several threads, and a file from several processes; what a
    method has done is in the file when it returns.

    Attributes:
        outbox: What is to be told about the calls.

    Raises:
        sqlite3.Error: The file can't be opened, or holds something else.
    """

    def __init__(self, database: str, clock: Clock) -> None:
        self._database = Database(database, clock)
        self.outbox = Outbox(self._database)

    def close(self) -> None:
        """Let go of the database; what is in a file stays there."""
        self._database.close()

    def clear(self) -> None:
        """Forget every call and every event."""
        with self._database.present():
            self._database.write("DELETE FROM calls")
            self._database.write("DELETE FROM callbacks")

    def count(self) -> int:
        """How many records there are."""
        with self._database.present():
            return int(self._database.number("SELECT count(*) FROM calls") or 0)

    def get(self, sid: str) -> Call | None:
        """The call with this SID, or None."""
        with self._database.present():
            return self._find(sid)

    def all(self) -> tuple[Call, ...]:
        """Every call, newest first."""
        return self.stretch((), self.count()).calls

    def latest(self) -> float | None:
        """The time of the latest change of any record; None if there are none."""
        return self._database.number("SELECT max(updated) FROM calls")

    def fill(self, calls: Sequence[Call]) -> bool:
        """Append records to a list that is still empty; False if it is not."""
        with self._database.present() as now:
            if self._database.number("SELECT EXISTS (SELECT 1 FROM calls)"):
                return False
            self._insert(calls, now)
            return True

    def add(self, *calls: Call) -> None:
        """Append records to the list; the last one becomes the newest."""
        with self._database.present() as now:
            self._insert(calls, now)

    def place(
        self, make: Callable[[float, float], tuple[Call, ...]], interval: float
    ) -> tuple[Call, ...]:
        """Append the records of a call that is dialled when its turn has come.

        Args:
            make: Gets the time and the time of the turn, returns the records; whatever it raises
                leaves everything as it was.
            interval: Seconds between one call that is dialled and the next.

        Returns:
            The records.
        """
        with self._database.present() as now:
            latest = self._database.number(LATEST_DIALLED)
            calls = make(now, max(now, now if latest is None else latest) + interval)
            self._insert(calls, now)
            return calls

    def amend(self, sid: str, change: Callable[[Call, float], Call]) -> Call | None:
        """Change a call and, if the account has both ends of it, its other record.

        Args:
            sid: Which call.
            change: Gets the call and the time, returns what becomes of it; whatever it raises
                leaves everything as it was.

        Returns:
            The call afterwards, or None if there is none with this SID.
        """
        with self._database.present() as now:
            call = self._find(sid)
            if call is None:
                return None
            changed = change(call, now)
            self._replace(changed)
            if call.peer_sid and (peer := self._find(call.peer_sid)):
                self._replace(following(peer, changed))
            self._database.advance(now)
            return self._find(sid)

    def delete(self, sid: str, check: Callable[[Call], None]) -> bool:
        """Remove a call's record; False if there is none with this SID.

        Args:
            sid: Which call.
            check: Gets the call; whatever it raises leaves the record in place.
        """
        with self._database.present():
            call = self._find(sid)
            if call is None:
                return False
            check(call)
            self._database.write("DELETE FROM calls WHERE sid = ?", (sid,))
            return True

    def stretch(
        self, criteria: Sequence[Criterion], size: int, anchor: Anchor | None = None
    ) -> Stretch:
        """The calls that meet all criteria: the newest ones, or those next to the anchor.

        Args:
            criteria: What the calls have in common.
            size: How many calls at most.
            anchor: Beside which place; None for the top of the list.
        """
        with self._database.present():
            rows = self._select(criteria, size, anchor)
            if not rows:
                return Stretch()
            newest, oldest = rows[0][0], rows[-1][0]
            more = bool(self._select(criteria, 1, Anchor("older", oldest)))
        return Stretch(tuple(call for _, call in rows), newest, oldest, more)

    def _select(
        self, criteria: Sequence[Criterion], size: int, anchor: Anchor | None
    ) -> list[tuple[int, Call]]:
        query, values = selection(criteria, anchor)
        rows = self._database.rows(query, (*values, size), _numbered_call)
        return rows[::-1] if anchor is not None and anchor.side == "newer" else rows

    def _find(self, sid: str) -> Call | None:
        rows = self._database.rows(FIND, (sid,), _numbered_call)
        return rows[0][1] if rows else None

    def _insert(self, calls: Sequence[Call], now: float) -> None:
        self._database.write_all(INSERT, map(ROW, calls))
        self._database.advance(now)

    def _replace(self, call: Call) -> None:
        self._database.write(REPLACE, (*ROW(call), call.sid))


def _numbered_call(row: tuple[object, ...]) -> tuple[int, Call]:
    seq, *values = row
    return cast("int", seq), Call(**dict(zip(FIELDS, values, strict=True)))  # pyright: ignore[reportArgumentType] - the columns are the fields
