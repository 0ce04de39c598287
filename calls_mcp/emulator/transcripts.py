"""The transcripts of calls, in SQLite: what was heard, pressed, dialed and fetched, and when."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from calls_mcp.emulator.sqlite_database import Database

LONGEST = 1000  # entries of one call
_SPEECH = ("said", "spoke")

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS transcript (
    id INTEGER PRIMARY KEY,
    sid,
    at,
    event,
    text,
    details -- a JSON object
)""",
    "CREATE INDEX IF NOT EXISTS transcript_sid ON transcript (sid)",
)
_INSERT = "INSERT INTO transcript (sid, at, event, text, details) VALUES (?, ?, ?, ?, ?)"
_SELECT = "SELECT at, event, text, details FROM transcript WHERE sid = ? ORDER BY id"


class TranscriptEntry(NamedTuple):
    """Something that happened in a call.

    Attributes:
        at: When, in seconds since the epoch.
        event: What, such as `said`, `pressed` or `fetched`.
        text: The words, keys, URL or number.
        details: More about it, such as the `voice` or the HTTP `status`.
    """

    at: float
    event: str
    text: str
    details: Mapping[str, str]

    def line(self, since: float) -> str:
        """Return the entry as a line, such as `0:03 said “Your table is ready.”`.

        The time counts from `since`, in minutes and seconds.
        """
        minutes, seconds = divmod(int(round(self.at - since, 1)), 60)
        text = " ".join(self.text.split())
        shown = f"“{text}”" if self.event in _SPEECH else text
        more = f" ({', '.join(self.details.values())})" if self.details else ""
        event = "other party said" if self.event == "spoke" else self.event
        return f"{minutes}:{seconds:02} {event} {shown}{more}"


class Transcripts:
    """The transcripts of all calls."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, sid: str, entry: TranscriptEntry) -> None:
        """Add an entry to the transcript of a call."""
        row = (sid, entry.at, entry.event, entry.text, json.dumps(entry.details))
        self._database.execute(_INSERT, [row])

    def of(self, sid: str) -> tuple[TranscriptEntry, ...]:
        """Return the transcript of a call, oldest entry first."""
        rows = self._database.rows(_SELECT, (sid,))
        return tuple(
            TranscriptEntry(at, event, text, json.loads(details))
            for at, event, text, details in rows
        )

    def clear(self) -> None:
        """Delete every transcript."""
        self._database.execute("DELETE FROM transcript")
