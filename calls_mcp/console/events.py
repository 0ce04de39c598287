"""What happened, in words: the events of audit records, of a change and of a call."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple, get_args

from calls_mcp.audit.records import Decision
from calls_mcp.audit.search import Found
from calls_mcp.errors import OutcomeUnknown, PolicyDenied
from calls_mcp.tools.call_summary import CallSummary
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.humanize import formatted, iso_time

_MAX_CALLS = 500
_OBSERVED = "noticed by this console"
_STATUSES = {"queued": "Call queued", "ringing": "Ringing", "in-progress": "Call answered"}


class _Words(NamedTuple):
    """The words for an action: as a verb, as the subject of an event, and as what was requested."""

    verb: str
    subject: str
    request: str


_ACTIONS = {
    "place": _Words("place a call", "Call", "this call"),
    "redirect": _Words("redirect a call", "Redirect", "a redirect"),
    "hang_up": _Words("hang up", "Hang-up", "a hang-up"),
    "modify": _Words("change a call", "Change", "a change"),
    "delete": _Words("delete a call record", "Deletion", "deletion of the record"),
}
_CONFIRMATIONS = {
    "elicitation": "confirmed by the user",
    "token": "confirmed with a token",
    "operator": "approved by the operator",
}


@dataclass(frozen=True, slots=True)
class _Step:
    """A step of a change.

    `title` and `style` are those of its event. `result` is the label of a change that ends with
    this step, and `pill` is the class of that label.
    """

    title: str
    style: str
    result: str
    pill: str = ""


_STEPS = {
    "asked": _Step("{who} requested {request}", "", "Requested"),
    "approved": _Step("{subject} approved by {decider}", "good", "Approved", "live"),
    "declined": _Step("{subject} declined by {decider}", "bad", "Declined", "failed"),
    "denied": _Step("{subject} denied by {decider}", "bad", "Denied", "failed"),
    "refused": _Step("{subject} refused", "bad", "Refused", "failed"),
    "expired": _Step("{subject} request expired", "bad", "Expired", "warning"),
    "withdrawn": _Step("{subject} request withdrawn by {decider}", "bad", "Withdrawn", "warning"),
    "replayed": _Step("{who} repeated the request: nothing sent", "", "Repeated"),
    "void": _Step("Decision by {decider} not used", "", "Decision not used", "warning"),
    "before": _Step("{subject} request sent to the API", "sent", "Sent", "live"),
    "done": _Step("{subject} request accepted by the API", "good", "Done", "completed"),
    "unknown": _Step("{subject} request sent, result unknown", "bad", "Result unknown", "warning"),
    "failed": _Step("{subject} request failed", "bad", "Failed", "failed"),
}
_DECISIONS = {
    "declined": "declined",
    "denied": "denied",
    "withdrawn": "withdrawn",
    "approved": "approved",
}
DECISION_WORDS: Mapping[str, str] = {
    name: _STEPS[name].result if name in _STEPS else name.capitalize()
    for name in get_args(Decision)
}
PHASE_WORDS: Mapping[str, str] = {
    "decided": "Decided",
    "before": "Sent",
    "after": "Result",
}
_OTHER = _Step("{subject}: {step}", "", "Unknown record", "warning")
_AFTERWARDS = ("replayed", "void")
"""Steps that do not change the result of a change."""


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


@dataclass(frozen=True, slots=True)
class ChangeSummary:
    """A change in one line: who requested what and when, who decided it and why, and its result.

    `pill` is the class of the result's label, and `sid` the call, if it exists. `records` has the
    event of each record, oldest first.
    """

    time: str
    title: str
    decision: str
    reason: str
    result: str
    pill: str
    sid: str
    records: Sequence[tuple[Found, Event]]
    is_intact: bool


def event_of(record: Mapping[str, Json]) -> Event:
    """Return the event that a record is about. The record may have been edited."""
    name, words = _step(record), _words(str(record.get("action")))
    step = _STEPS.get(name, _OTHER)
    title = step.title.format(
        who=record.get("principal", "Unknown"),
        subject=words.subject,
        request=words.request,
        decider=record.get("decided_by", "the user"),
        step=name,
    )
    return Event(str(record.get("time", "")), title, ", ".join(_details(record, name)), step.style)


def summarize(records: Sequence[Found]) -> ChangeSummary:
    """Return the summary of a change with at least one record, oldest first."""
    all_fields = [each.fields for each in records]
    result = next(
        (each for each in reversed(all_fields) if _step(each) not in _AFTERWARDS), all_fields[-1]
    )
    step = _STEPS.get(_step(result), _OTHER)
    kind = str(result.get("error_kind") or "") if step.pill == "failed" else ""
    return ChangeSummary(
        time=str(all_fields[-1].get("time", "")),
        title=_title(all_fields),
        decision=_decision(all_fields),
        reason=str(_first(all_fields, "reason")),
        result=kind or step.result,
        pill=step.pill,
        sid=str(_first(all_fields, "sid")),
        records=[(each, event_of(each.fields)) for each in records],
        is_intact=all(each.is_intact for each in records),
    )


def _title(records: Sequence[Mapping[str, Json]]) -> str:
    if not any(records):
        return "This record can't be read"
    words, arguments = _words(str(_first(records, "action"))), _first(records, "arguments")
    to = arguments.get("to") if isinstance(arguments, dict) else None
    verb = f"call {formatted(str(to))}" if to else words.verb
    return f"{_first(records, 'principal') or 'Unknown'} asked to {verb}"


def _decision(records: Sequence[Mapping[str, Json]]) -> str:
    steps = {_step(each): each for each in records}
    for step, verb in _DECISIONS.items():
        if step in steps:
            return f"{verb} by {steps[step].get('decided_by', 'the user')}"
    refusal = steps.get("refused", {})
    if refusal.get("error_kind") == PolicyDenied.kind:
        return f"rule {refusal.get('rule')}"
    return _CONFIRMATIONS.get(str(steps.get("before", {}).get("confirmed_by")), "")


def _words(action: str) -> _Words:
    return _ACTIONS.get(action, _Words(action, action, action))


def _first(records: Sequence[Mapping[str, Json]], name: str) -> Json:
    return next((each[name] for each in records if each.get(name)), "")


def _step(record: Mapping[str, Json]) -> str:
    """Return the step of a change that a record is about, such as `asked`, `before` or `failed`."""
    phase = record.get("phase")
    if phase == "after":
        if record.get("outcome") == "done":
            return "done"
        return "unknown" if record.get("error_kind") == OutcomeUnknown.kind else "failed"
    return str(phase if phase == "before" else record.get("decision", phase))


def _details(record: Mapping[str, Json], name: str) -> Iterator[str]:
    if name == "before":
        yield f"for {record.get('principal', 'unknown')}"
        if confirmation := _CONFIRMATIONS.get(str(record.get("confirmed_by"))):
            yield confirmation
    if name in ("asked", "refused", "before") and (rule := record.get("rule")):
        yield f"rule {rule}"
    labels = {"reason": "reason:", "error_kind": "error", "http_status": "HTTP"}
    for field, label in labels.items():
        if value := record.get(field):
            yield f"{label} {value}"
    if record.get("phase") == "after":
        yield f"{record.get('duration_ms')} ms"


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
