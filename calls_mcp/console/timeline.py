"""A call's story on one time line: from the record, and as the API tells it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from calls_mcp.audit.search import AuditReader
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import CallSummary, iso_time

_MOST_SEEN = 500  # calls

_DECIDED = {
    "asked": "asked for",
    "approved": "approved",
    "denied": "refused",
    "declined": "declined",
    "expired": "lapsed",
    "replayed": "repeated, and nothing was sent",
    "void": "that decision did not count",
}
_TONES = {"approved": "good", "denied": "bad", "declined": "bad", "expired": "bad"}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at `time`, ISO 8601 UTC, with what else is known of it.

    `tone` is how it looks: `good`, `bad`, `sent` or as any other.
    """

    time: str
    what: str
    detail: str = ""
    tone: str = ""


class Sightings:
    """Which status each call was seen to have, and when first; `clock` gives epoch seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[str, list[Event]] = {}

    def note(self, calls: Iterable[CallSummary]) -> None:
        """Take note of how these calls are now."""
        time = iso_time(self._clock())
        for call in calls:
            events, status = self._seen.get(call.sid), call.status or "unknown"
            what = f"Seen by this console: {status}"
            if events is None and call.live is not True:
                continue
            if not events or events[-1].what != what:
                self._seen.setdefault(call.sid, []).append(Event(time, what))
        while len(self._seen) > _MOST_SEEN:
            del self._seen[next(iter(self._seen))]

    def of(self, sid: str) -> Sequence[Event]:
        """What was seen of one."""
        return self._seen.get(sid, ())


def story(
    record: Path | None, sid: str, call: CallSummary | None, seen: Sequence[Event]
) -> list[Event]:
    """All that is known of a call, the oldest first.

    Raises:
        ConfigurationError: The record can't be read.
    """
    records = AuditReader(record).about(sid) if record else ()
    events = [*map(_event, records), *_told(call), *seen]
    return sorted(events, key=lambda event: event.time[:19])


def _event(record: Mapping[str, Json]) -> Event:
    time, phase = str(record.get("time", "")), record.get("phase")
    action = str(record.get("action", "")).replace("_", " ")
    who = record.get("principal", "somebody")
    if phase == "before":
        by = record.get("confirmed_by")
        return Event(
            time,
            f"Sent to the API for {who}: {action}",
            _detail(record, {"confirmed by": by}),
            "sent",
        )
    if phase == "after":
        took = f"{record.get('duration_ms')} ms"
        more = {
            "HTTP status": record.get("http_status"),
            "request": record.get("request_id"),
            "took": took,
        }
        tone = "good" if record.get("outcome") == "done" else "bad"
        return Event(
            time, f"The API's answer: {record.get('outcome')}", _detail(record, more), tone
        )
    decision = str(record.get("decision", phase))
    whose = "by" if decision == "asked" else "for"
    return Event(
        time,
        f"{action.capitalize()} {whose} {who}: {_DECIDED.get(decision, decision)}",
        _detail(record, {}),
        _TONES.get(decision, ""),
    )


def _detail(record: Mapping[str, Json], more: Mapping[str, Json]) -> str:
    known = {
        "rule": record.get("rule"),
        "decided by": record.get("decided_by"),
        "reason": record.get("reason"),
        "error": record.get("error_kind"),
        **more,
    }
    return ", ".join(f"{name} {value}" for name, value in known.items() if value)


def _told(call: CallSummary | None) -> Iterator[Event]:
    if call is None:
        return
    times = {"created": call.created_at, "started": call.started_at, "ended": call.ended_at}
    for what, time in times.items():
        if time is not None:
            status = f"status {call.status}" if what == "ended" else ""
            yield Event(time, f"The API says: {what}", status)
