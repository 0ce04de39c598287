"""What is still to be told about calls, and what was: kept in the database beside them."""

import threading
import time
from dataclasses import dataclass, fields

from calls_mcp.emulator.call import Direction
from calls_mcp.emulator.database import Database
from calls_mcp.emulator.tables import EXPECTED

PAUSES = (1, 5, 25)
"""Seconds between the attempts at one delivery; after the last attempt there is no other."""


@dataclass(frozen=True, slots=True)
class Callback:
    """An event of a call's life that somebody wants to hear of.

    Attributes:
        id: Which one it is.
        sid: The call's.
        sequence: Which of the call's events it is, from 0.
        status: What the call's status was.
        at: When it happened, in seconds since the epoch.
        url: Where it is to be sent.
        method: `GET` or `POST`.
        to: Who was called.
        from_: Who called.
        direction: Whether the account placed or received the call.
        answered_by: What detection had found by then.
        duration: Whole seconds of talk, None before the end and if there was none.
        attempts: How many attempts at its delivery there have been.
        outcome: The HTTP status of the latest answer, or why there was none.
    """

    id: int
    sid: str
    sequence: int
    status: str
    at: float
    url: str
    method: str
    to: str
    from_: str
    direction: Direction
    answered_by: str | None
    duration: int | None
    attempts: int
    outcome: str | None


COLUMNS = ", ".join(f'c."{field.name}"' for field in fields(Callback))
LATEST = f"SELECT {COLUMNS} FROM callbacks c ORDER BY id DESC LIMIT ?"  # noqa: S608 - our own column names
DUE = f"""SELECT {COLUMNS} FROM callbacks c WHERE due <= ? AND coalesce(held, 0) <= ?
    AND NOT EXISTS (
        SELECT 1 FROM callbacks earlier
        WHERE earlier.sid = c.sid AND earlier.sequence < c.sequence AND earlier.due IS NOT NULL
    ) ORDER BY due, id LIMIT 100"""  # noqa: S608 - likewise
CLAIM = """UPDATE callbacks SET attempts = attempts + 1, due = ?, held = ?
    WHERE id = ? AND attempts = ? AND due IS NOT NULL"""
WORK = f"""SELECT EXISTS ({DUE}) OR EXISTS (SELECT 1 FROM callbacks WHERE held > ?)"""  # noqa: S608 - likewise
SETTLE = """UPDATE callbacks SET outcome = ?, held = NULL, due = iif(?, NULL, due)
    WHERE id = ?"""


class Outbox:
    """The callbacks. One that was claimed and never settled comes up again when its time is up."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._settled = threading.Condition()

    @property
    def expects(self) -> bool:
        """Whether there is, or will be by itself, anything to send."""
        return bool(self._database.number(EXPECTED))

    def due(self) -> list[Callback]:
        """What is to be sent now. A call's second event waits until its first is settled."""
        with self._database.present() as now:
            return self._database.rows(DUE, (now, time.time()), _callback)

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is to be sent now; False if there still is after so many seconds."""
        with self._settled:
            return self._settled.wait_for(lambda: not self._has_work(), seconds)

    def _has_work(self) -> bool:
        with self._database.present() as now:
            return bool(self._database.number(WORK, (now, *[time.time()] * 2)))

    def latest(self, count: int) -> list[Callback]:
        """The latest events, newest first."""
        return self._database.rows(LATEST, (count,), _callback)

    def claim(self, callback: Callback, seconds: float) -> bool:
        """Take it on for so many seconds of real time; False if another process was faster."""
        with self._database.present() as now:
            pause = PAUSES[min(callback.attempts, len(PAUSES) - 1)]
            claim = now + pause, time.time() + seconds, callback.id, callback.attempts
            return self._database.write(CLAIM, claim) == 1

    def settle(self, callback: Callback, outcome: str, *, final: bool) -> None:
        """Note how an attempt went; a final one is not repeated, nor is the last."""
        over = final or callback.attempts >= len(PAUSES)
        self._database.write(SETTLE, (outcome, over, callback.id))
        with self._settled:
            self._settled.notify_all()


def _callback(row: tuple[object, ...]) -> Callback:
    return Callback(*row)  # pyright: ignore[reportArgumentType] - the columns are the fields
