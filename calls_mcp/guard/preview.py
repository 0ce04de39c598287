"""The preview of a change: plain words, nothing hidden."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from calls_mcp.errors import NotApplicable
from calls_mcp.guard.change import Change
from calls_mcp.guard.limits import RecentCalls
from calls_mcp.guard.policy import action_of, records
from calls_mcp.observability.redaction import MASK, quoted
from calls_mcp.tools.call_summary import LONGEST_ADDRESS
from calls_mcp.tools.catalog import Action, Json, Parameter
from calls_mcp.tools.outcome import CallSummary
from calls_mcp.tools.validation import Arguments
from calls_mcp.tools.wording import about, duration

# In the first sentences of a preview; everything else is listed after them.
_MENTIONED = frozenset(
    {"account_sid", "sid", "to", "from", "status", "url", "method", "twiml", "application_sid"}
)
_VERBS: Mapping[Action, str] = {
    "hang_up": "Hang up",
    "redirect": "Redirect",
    "modify": "Change",
    "delete": "Permanently delete the record of",
}


@dataclass(frozen=True, slots=True)
class Preview:
    """The text that a person is shown before a change.

    `state` must be unchanged when the change is made. It is the state of the call or, for a new
    call, the ids of recent calls to the same number, one per line.
    """

    action: Action
    text: str
    state: str


def preview_of(
    change: Change, call: CallSummary | None, now: datetime, recent: RecentCalls
) -> Preview:
    """Return the preview of a change to `call` (None for a new call) at the time `now` (UTC).

    Raises:
        NotApplicable: The call is in a state in which the API would refuse the change.
    """
    arguments, action = change.arguments, action_of(change.arguments)
    _refuse_if_pointless(action, call)
    active = {k: v for k, v in arguments.values.items() if k not in arguments.ignored}
    lines = [
        _headline(change, action, call, now),
        *_instructions(active),
        *_details(action, arguments, active),
        *_caveats(action, arguments, call),
        *recent.reasons,
    ]
    state = "\n".join([*([_state(call)] if call else []), *sorted(recent.ids)])
    return Preview(action, "\n".join(lines), state)


def difference(state: str, now: CallSummary) -> str:
    """Return what changed since a preview showed this `state`; empty if nothing."""
    shown = state.partition("\n")[0]
    if shown == _state(now):
        return ""
    return f"The call has changed: it was shown as {shown}, and it is {_state(now)}."


def _refuse_if_pointless(action: Action, call: CallSummary | None) -> None:
    """Refuse what the API would refuse, before anyone is asked.

    Raises:
        NotApplicable: A change to an ended call, or the deletion of a live one.
    """
    live = call.live if call else None
    if action == "delete" and live:
        raise NotApplicable(
            f"Nothing was sent: the call is still {_status(call)}, and only the record of an "
            "ended call can be deleted.",
            "End it first with update_call and status=completed, then delete it.",
        )
    if action in ("hang_up", "redirect", "modify") and live is False:
        raise NotApplicable(
            f"Nothing was sent: the call has ended ({_status(call)}), and an ended call can't "
            "be changed.",
            "If you wanted to hang up, there is nothing left to do. To call again, use "
            "create_call.",
        )


def _state(call: CallSummary) -> str:
    """Return the state of a call that must not change after its preview."""
    return f"{_status(call)} {_parties(call)}"


def _status(call: CallSummary | None) -> str:
    return (call.status or "in an unknown state") if call else "not placed yet"


def _parties(call: CallSummary) -> str:
    """Return the parties, quoted because strangers chose their names."""
    return f"from {_party(call.from_)} to {_party(call.to)}"


def _party(address: str | None) -> str:
    return quoted(address, LONGEST_ADDRESS) if address else "unknown"


def _headline(change: Change, action: Action, call: CallSummary | None, now: datetime) -> str:
    account = f"account {change.request.account_sid}"
    if call is None:
        values = change.arguments.values
        parties = f"{_exactly(values['to'])} from {_exactly(values['from'])}"
        return f"Place a call to {parties} ({account})."
    parts = [_status(call), call.direction, _parties(call), _age(call, now)]
    described = ", ".join(part for part in parts if part)
    return f"{_VERBS[action]} call {call.sid} ({account}): {described}."


def _age(call: CallSummary, now: datetime) -> str:
    if call.duration_seconds is not None and not call.live:
        return f"lasted {duration(call.duration_seconds)}"
    since = call.started_at or call.created_at
    if since is None:
        return ""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    word = "started" if call.started_at else "created"
    return f"{word} {about(seconds)} ago" if call.live else f"{word} {since}"


def _instructions(active: Mapping[str, Json]) -> Iterator[str]:
    if "url" in active:
        method = active.get("method", "POST")
        yield f"It follows the TwiML at {_exactly(active['url'])} ({method})."
    if "twiml" in active:
        yield "It follows this TwiML:"
        # The bar keeps its lines from looking like ours.
        yield from (f"  | {line}" for line in _without_gaps(str(active["twiml"])))
    if "application_sid" in active:
        yield f"Application {active['application_sid']} handles it."
        if active.keys() & {"url", "twiml"}:
            yield "The API's documentation does not say which of these it follows."


def _without_gaps(text: str) -> Iterator[str]:
    """Yield the lines of a text. Several blank lines become one note, so none hides the rest."""
    for is_blank, lines in groupby(text.splitlines(), lambda line: not line.strip()):
        several = [*lines]
        if is_blank and len(several) > 1:
            yield f"({len(several)} blank lines)"
        else:
            yield from several


def _details(action: Action, arguments: Arguments, active: Mapping[str, Json]) -> Iterator[str]:
    parameters = arguments.operation.parameters
    rest = {name: value for name, value in active.items() if name not in _MENTIONED}
    details = [_detail(parameters[name], value) for name, value in rest.items()]
    if details:
        label = "New values" if action == "modify" else "Other arguments"
        yield f"{label}: {', '.join(details)}."
    yield from (f"Note: {warning}." for warning in arguments.warnings)


def _detail(parameter: Parameter, value: object) -> str:
    shown = MASK if parameter.secret else _exactly(value)
    text = f"{parameter.name} {shown} {parameter.unit}".rstrip()
    if parameter.unit != "seconds" or not isinstance(value, int):
        return text
    rounded = duration(value)
    return text if rounded == f"{value} s" else f"{text} ({rounded})"


def _caveats(action: Action, arguments: Arguments, call: CallSummary | None) -> Iterator[str]:
    if arguments.values.get("record") is True or records(str(arguments.values.get("twiml", ""))):
        yield "The call is RECORDED. The law may require the consent of everyone on it."
    if action == "place":
        yield "It rings immediately and costs money."
    if action == "delete":
        yield "This can't be undone."
    if action == "hang_up" and arguments.values.keys() & {"url", "twiml"}:
        yield "The API's documentation does not say what status and new instructions do together."
    elif action == "hang_up":
        yield from _hang_up_caveats(arguments, _status(call))


def _hang_up_caveats(arguments: Arguments, status: str) -> Iterator[str]:
    if arguments.values["status"] == "canceled" and status == "in-progress":
        yield "But canceled does not end a call in progress; only completed does."
    else:
        yield "Everyone on it is disconnected."


def _exactly(value: object) -> str:
    """Return an argument unchanged and in full, because the user must see all of it."""
    return json.dumps(value, ensure_ascii=False)
