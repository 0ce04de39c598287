"""The recordings of calls, in SQLite, and the callbacks about them."""

import secrets
from collections.abc import Mapping, Sequence
from math import floor
from typing import Literal, NamedTuple, Self

from calls_mcp.emulator.callbacks import CallbackQueue
from calls_mcp.emulator.clock import rfc2822
from calls_mcp.emulator.sqlite_database import Anchor, Database, Filter, Page, read_page

Source = Literal["DialVerb", "OutboundAPI", "RecordVerb", "StartCallRecordingAPI"]
RecordingStatus = Literal["in-progress", "paused", "completed", "absent"]


class RecordingOptions(NamedTuple):
    """How a call is recorded, and where that is reported."""

    channels: int = 1  # 1 for all parties together, 2 for each in its own channel
    track: str = "both"  # `inbound`, `outbound` or `both`
    callback_url: str | None = None  # the URL that receives callbacks, None for no callbacks
    callback_method: str = "POST"  # `GET` or `POST`
    callback_events: str = "completed"  # the statuses that are reported, separated by spaces

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Self:
        """Return the options in the parameters of a request."""
        return cls(
            channels=2 if values.get("RecordingChannels") == "dual" else 1,
            track=values.get("RecordingTrack", "both"),
            callback_url=values.get("RecordingStatusCallback"),
            callback_method=values.get("RecordingStatusCallbackMethod", "POST"),
            callback_events=values.get("RecordingStatusCallbackEvent", "completed"),
        )


class Recording(NamedTuple):
    """The record of a recording. Times are in seconds since the epoch."""

    sid: str  # `RE` and 32 hexadecimal digits
    call_sid: str  # the recorded call
    source: Source  # what started it
    status: RecordingStatus  # `absent` if nothing was recorded
    started: float  # the second in which it began
    updated: float  # when the record last changed
    duration: int | None = None  # whole seconds, None before its end
    conference_sid: str | None = None  # the recorded conference
    channels: int = 1
    track: str = "both"
    callback_url: str | None = None
    callback_method: str = "POST"
    callback_events: str = "completed"

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.status in {"in-progress", "paused"}


_COLUMNS = ", ".join(Recording._fields)
_MARKS = ", ".join(f":{name}" for name in Recording._fields)
SCHEMA = (
    f"""CREATE TABLE IF NOT EXISTS recordings (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    {_COLUMNS},
    UNIQUE (sid)
)""",
    "CREATE INDEX IF NOT EXISTS recordings_call ON recordings (call_sid)",
)
_SELECT = f"SELECT seq, {_COLUMNS} FROM recordings"  # noqa: S608 - our own column names
_INSERT = f"INSERT INTO recordings ({_COLUMNS}) VALUES ({_MARKS})"  # noqa: S608 - our own column names
_UPDATE = f"UPDATE recordings SET ({_COLUMNS}) = ({_MARKS}) WHERE sid = :sid"  # noqa: S608 - our own column names


class Recordings:
    """The recordings of all calls.

    Attributes:
        location: The URL below which recordings can be downloaded.
    """

    def __init__(self, database: Database, callbacks: CallbackQueue) -> None:
        self.location = ""
        self._database = database
        self._callbacks = callbacks

    def url(self, sid: str) -> str:
        """Return the URL of a recording's audio."""
        return f"{self.location}/{sid}"

    def clear(self) -> None:
        """Delete every recording."""
        self._database.execute("DELETE FROM recordings")

    def get(self, sid: str) -> Recording | None:
        """Return the recording with this SID, None if there is none."""
        found = self._database.rows(f"{_SELECT} WHERE sid = ?", (sid,))
        return Recording._make(found[0][1:]) if found else None

    def page(
        self, filters: Sequence[Filter], size: int, anchor: Anchor | None = None
    ) -> Page[Recording]:
        """Return the recordings that match all filters, as `CallStore.page` does."""
        rows, newer, older = read_page(self._database, _SELECT, filters, size, anchor)
        return Page(tuple(map(Recording._make, rows)), newer, older)

    def live(self, call_sid: str) -> tuple[Recording, ...]:
        """Return the recordings of a call that have not ended, oldest first."""
        query = f"{_SELECT} WHERE call_sid = ? AND duration IS NULL ORDER BY seq"
        return tuple(Recording._make(row[1:]) for row in self._database.rows(query, (call_sid,)))

    def start(
        self, call_sid: str, source: Source, now: float, options: RecordingOptions
    ) -> Recording:
        """Begin a recording, and report it as `in-progress`."""
        sid = f"RE{secrets.token_hex(16)}"
        recording = Recording(sid, call_sid, source, "in-progress", floor(now), now)
        recording = recording._replace(**options._asdict())
        self._database.execute(_INSERT, [recording._asdict()])
        self._report(recording)
        return recording

    def update(self, recording: Recording) -> None:
        """Replace the recording with the same SID."""
        self._database.execute(_UPDATE, [recording._asdict()])

    def stop(self, recording: Recording, now: float) -> Recording:
        """End a recording, and report it as `completed`, or `absent` if shorter than a second."""
        duration = floor(now - recording.started)
        status: RecordingStatus = "completed" if duration else "absent"
        recording = recording._replace(status=status, duration=duration, updated=now)
        self.update(recording)
        self._report(recording)
        return recording

    def add(
        self, call_sid: str, source: Source, started: float, ended: float, options: RecordingOptions
    ) -> Recording:
        """Add a recording that has already ended, and report it."""
        return self.stop(self.start(call_sid, source, started, options), ended)

    def delete(self, sid: str) -> None:
        """Delete a recording."""
        self._database.execute("DELETE FROM recordings WHERE sid = ?", [(sid,)])

    def summary(self, recording: Recording) -> dict[str, str]:
        """Return what other callbacks say about a recording, nothing if it is absent."""
        if recording.status != "completed":
            return {}
        return {
            "RecordingSid": recording.sid,
            "RecordingUrl": self.url(recording.sid),
            "RecordingDuration": str(recording.duration),
        }

    def _report(self, recording: Recording) -> None:
        url, method = recording.callback_url, recording.callback_method
        if url and recording.status in recording.callback_events.split():
            form = self._parameters(recording)
            self._callbacks.add(recording.sid, url, method, form, recording.updated)

    def _parameters(self, recording: Recording) -> dict[str, str]:
        """Return the parameters of a callback about a recording, except `AccountSid`."""
        values = {
            "CallSid": recording.call_sid,
            "RecordingSid": recording.sid,
            "RecordingUrl": self.url(recording.sid),
            "RecordingStatus": recording.status,
            "RecordingChannels": str(recording.channels),
            "RecordingStartTime": rfc2822(recording.started),
            "RecordingSource": recording.source,
            "RecordingTrack": recording.track,
        }
        if recording.duration is not None:
            values["RecordingDuration"] = str(recording.duration)
        return values
