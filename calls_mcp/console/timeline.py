"""The timeline of a call, from the audit log, the API and what this console observed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from calls_mcp.console.sentences import step
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import CallSummary, iso_time

_MAX_CALLS = 500
_OBSERVED = "first seen by this console"

_SUBJECTS = {
    "place": "Call",
    "redirect": "Redirect",
    "hang_up": "Hang-up",
    "modify": "Change",
    "delete": "Deletion",
}
_REQUESTS = {
    "place": "this call",
    "redirect": "a redirect",
    "hang_up": "a hang-up",
    "modify": "a change",
    "delete": "deletion of the record",
}
_STEPS = {
    "asked": ("{principal} requested {request}", ""),
    "approved": ("{subject} approved by {decider}", "good"),
    "declined": ("{subject} denied by {decider}", "bad"),
    "denied": ("{subject} refused", "bad"),
    "expired": ("{subject} request expired", "bad"),
    "withdrawn": ("{subject} request withdrawn by {decider}", "bad"),
    "replayed": ("{principal} repeated the request: nothing sent", ""),
    "void": ("Decision by {decider} not used", ""),
    "before": ("{subject} request sent to the API", "sent"),
    "done": ("{subject} request accepted by the API", "good"),
    "found": ("{subject} request confirmed by a lookup", "good"),
    "unknown": ("{subject} request sent, result unknown", "bad"),
    "failed": ("{subject} request failed", "bad"),
}
"""The title and the style of each kind of record."""
_CONFIRMATIONS = {
    "elicitation": "confirmed by the user",
    "token": "confirmed by the agent",
    "operator": "approved by the operator",
}
_STATUSES = {"queued": "Call queued", "ringing": "Ringing", "in-progress": "Call answered"}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at `time`, ISO 8601 UTC.

    `style` is a class of the stylesheet: `good`, `bad`, `sent` or none. `seconds` is the time since
    the event before, None if unknown.
    """

    time: str
    title: str
    detail: str = ""
    style: str = ""
    seconds: float | None = None


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
    events = [*map(_recorded, records), *_reported(call), *observed]
    events.sort(key=lambda event: event.time[:19])
    later = [replace(one, seconds=_between(before, one)) for before, one in pairwise(events)]
    return [*events[:1], *later]


def _between(before: Event, event: Event) -> float | None:
    try:
        times = [datetime.fromisoformat(each.time) for each in (before, event)]
        return (times[1] - times[0]).total_seconds()
    except (ValueError, TypeError):  # of records that were edited
        return None


def _recorded(record: Mapping[str, Json]) -> Event:
    action, done = str(record.get("action")), step(record)
    title, style = _STEPS.get(done, ("{subject}: {step}", ""))
    text = title.format(
        principal=record.get("principal", "Unknown"),
        subject=_SUBJECTS.get(action, action),
        request=_REQUESTS.get(action, action),
        decider=record.get("decided_by", "the user"),
        step=done,
    )
    return Event(str(record.get("time", "")), text, ", ".join(_details(record, done)), style)


def _details(record: Mapping[str, Json], name: str) -> Iterator[str]:
    if name == "before":
        yield f"for {record.get('principal', 'unknown')}"
        if confirmation := _CONFIRMATIONS.get(str(record.get("confirmed_by"))):
            yield confirmation
    if record.get("phase") == "recovered":
        yield "the response was lost and a lookup found the result"
    if name in ("asked", "denied", "before") and (rule := record.get("rule")):
        yield f"rule {rule}"
    labels = {"reason": "reason:", "error_kind": "error", "http_status": "HTTP"}
    for field, label in labels.items():
        if value := record.get(field):
            yield f"{label} {value}"
    if record.get("phase") == "after":
        yield f"{record.get('duration_ms')} ms"


def _reported(call: CallSummary | None) -> Iterator[Event]:
    if call is None:
        return
    times = {"created": call.created_at, "started": call.started_at, "ended": call.ended_at}
    for name, time in times.items():
        if time is not None:
            is_end = name == "ended"
            style = "good" if is_end and call.status == "completed" else ""
            yield Event(time, f"Call {name}", f"status {call.status}" if is_end else "", style)
