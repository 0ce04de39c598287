"""The timeline of a call, from the audit log, the API and what this console observed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

from calls_mcp.console.audit_wording import Event, event_of
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import CallSummary, iso_time

_MAX_CALLS = 500
_OBSERVED = "noticed by this console"

_STATUSES = {"queued": "Call queued", "ringing": "Ringing", "in-progress": "Call answered"}


class Observations:
    """Remembers when a call was first seen with each status; `clock` returns epoch seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: dict[str, list[Event]] = {}

    def add(self, calls: Iterable[CallSummary]) -> None:
        """Record the status of these calls, except ended ones that were never seen live."""
        time = iso_time(self._clock())
        for call in calls:
            events = self._events.get(call.sid, [])
            status = call.status or "unknown"
            title = _STATUSES.get(status, f"Status {status}")
            is_known = events and events[-1].title == title
            if not is_known and (events or call.live is True):
                self._events[call.sid] = [*events, Event(time, title, _OBSERVED)]
        while len(self._events) > _MAX_CALLS:
            del self._events[next(iter(self._events))]

    def of(self, sid: str) -> Sequence[Event]:
        """Return the events of one call."""
        return self._events.get(sid, ())


def timeline(
    records: Iterable[Mapping[str, Json]], call: CallSummary | None, observed: Sequence[Event]
) -> list[Event]:
    """Return all events of a call, oldest first; `records` are from the audit log."""
    events = [*map(event_of, records), *_reported(call), *observed]
    events.sort(key=lambda event: event.time[:19])
    later = [replace(one, seconds=_between(before, one)) for before, one in pairwise(events)]
    return [*events[:1], *later]


def _between(before: Event, event: Event) -> float | None:
    try:
        times = [datetime.fromisoformat(each.time) for each in (before, event)]
        return (times[1] - times[0]).total_seconds()
    except (ValueError, TypeError):  # of records that were edited
        return None


def _reported(call: CallSummary | None) -> Iterator[Event]:
    if call is None:
        return
    times = {"created": call.created_at, "started": call.started_at, "ended": call.ended_at}
    for name, time in times.items():
        if time is not None:
            is_end = name == "ended"
            style = "good" if is_end and call.status == "completed" else ""
            yield Event(time, f"Call {name}", f"status {call.status}" if is_end else "", style)
