"""The timeline of a call: from the audit log, from the API, and as this console observed it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import CallSummary, iso_time

_MAX_CALLS = 500

_DECISIONS = {
    "asked": "asked for",
    "approved": "approved",
    "denied": "refused",
    "declined": "declined",
    "expired": "lapsed",
    "replayed": "repeated, and nothing was sent",
    "void": "that decision did not count",
}
_STYLES = {"approved": "good", "denied": "bad", "declined": "bad", "expired": "bad"}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at `time`, ISO 8601 UTC.

    `style` is a class of the stylesheet: `good`, `bad`, `sent` or none.
    """

    time: str
    title: str
    detail: str = ""
    style: str = ""


class Observations:
    """Remembers when a call was first seen with each status; `clock` returns epoch seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: dict[str, list[Event]] = {}

    def add(self, calls: Iterable[CallSummary]) -> None:
        """Note the status of these calls. Ended ones that were never seen live are skipped."""
        time = iso_time(self._clock())
        for call in calls:
            events = self._events.get(call.sid, [])
            title = f"Seen by this console: {call.status or 'unknown'}"
            is_known = events and events[-1].title == title
            if not is_known and (events or call.live is True):
                self._events[call.sid] = [*events, Event(time, title)]
        while len(self._events) > _MAX_CALLS:
            del self._events[next(iter(self._events))]

    def of(self, sid: str) -> Sequence[Event]:
        """Return the events of one call."""
        return self._events.get(sid, ())


def timeline(
    records: Iterable[Mapping[str, Json]], call: CallSummary | None, observed: Sequence[Event]
) -> list[Event]:
    """Return all events of a call, the oldest first; `records` are those of the audit log."""
    events = [*map(_recorded, records), *_reported(call), *observed]
    return sorted(events, key=lambda event: event.time[:19])


def _recorded(record: Mapping[str, Json]) -> Event:
    time, phase = str(record.get("time", "")), record.get("phase")
    action = str(record.get("action", "")).replace("_", " ")
    principal = record.get("principal", "somebody")
    if phase == "before":
        detail = _detail(record, {"confirmed by": record.get("confirmed_by")})
        return Event(time, f"Sent to the API for {principal}: {action}", detail, "sent")
    if phase == "after":
        result = {
            "HTTP status": record.get("http_status"),
            "request": record.get("request_id"),
            "took": f"{record.get('duration_ms')} ms",
        }
        outcome = record.get("outcome")
        style = "good" if outcome == "done" else "bad"
        return Event(time, f"The API's answer: {outcome}", _detail(record, result), style)
    decision = str(record.get("decision", phase))
    preposition = "by" if decision == "asked" else "for"
    what = _DECISIONS.get(decision, decision)
    title = f"{action.capitalize()} {preposition} {principal}: {what}"
    return Event(time, title, _detail(record, {}), _STYLES.get(decision, ""))


def _detail(record: Mapping[str, Json], more: Mapping[str, Json]) -> str:
    known = {
        "rule": record.get("rule"),
        "decided by": record.get("decided_by"),
        "reason": record.get("reason"),
        "error": record.get("error_kind"),
        **more,
    }
    return ", ".join(f"{name} {value}" for name, value in known.items() if value)


def _reported(call: CallSummary | None) -> Iterator[Event]:
    if call is None:
        return
    times = {"created": call.created_at, "started": call.started_at, "ended": call.ended_at}
    for name, time in times.items():
        if time is not None:
            detail = f"status {call.status}" if name == "ended" else ""
            yield Event(time, f"The API says: {name}", detail)
