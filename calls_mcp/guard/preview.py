"""What a person is shown before a change, in plain words and in full."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from calls_mcp.errors import NotApplicable
from calls_mcp.guard.change import Change
from calls_mcp.guard.limits import RecentCalls
from calls_mcp.guard.policy import action_of
from calls_mcp.observability.redaction import MASK, quoted
from calls_mcp.tools.catalog import Action, Json, Parameter
from calls_mcp.tools.outcome import CallSummary
from calls_mcp.tools.validation import Arguments

_LONGEST_PARTY = 256  # characters of what the API says of a call

# In the first sentences of a preview; everything else is listed after them.
_MENTIONED = frozenset(
    {"account_sid", "sid", "to", "from", "status", "url", "method", "twiml", "application_sid"}
)
_VERBS: Mapping[Action, str] = {
    "hang_up": "Hang up",
    "redirect": "Redirect",
    "modify": "Change",
    "delete": "Delete for good the record of",
}


@dataclass(frozen=True, slots=True)
class Preview:
    """What a person is shown.

    `state` is what must still be true when it is acted on: what the preview says of the call, or
    else the ids of the recent calls to the same number, a line each.
    """

    action: Action
    text: str
    state: str


def preview_of(
    change: Change, call: CallSummary | None, now: datetime, recent: RecentCalls
) -> Preview:
    """Return the preview of a change of `call` as it is `now` (UTC); None if it places one.

    Raises:
        NotApplicable: The call is in a state in which the API is sure to refuse.
    """
    arguments, action = change.arguments, action_of(change.arguments)
    _refuse_if_pointless(action, call)
    active = {k: v for k, v in arguments.values.items() if k not in arguments.ignored}
    lines = [
        _headline(change, action, call, now),
        *_instructions(active),
        *_details(arguments, active),
        *_caveats(action, arguments, call),
        *recent.reasons,
    ]
    state = "\n".join([*([_state(call)] if call else []), *sorted(recent.ids)])
    return Preview(action, "\n".join(lines), state)


def difference(state: str, now: CallSummary) -> str:
    """Return what has changed since a preview showed this `state`; empty if nothing has."""
    shown = state.partition("\n")[0]
    if shown == _state(now):
        return ""
    return f"The call has changed: it was shown as {shown}, and it is {_state(now)}."


def _refuse_if_pointless(action: Action, call: CallSummary | None) -> None:
    """Refuse what the API would refuse, before anybody is asked about it.

    Raises:
        NotApplicable: A change of an ended call, or the deletion of a live one.
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
            "If it was to be hung up, nothing is left to do. To speak to them again, place a new "
            "call with create_call.",
        )


def _state(call: CallSummary) -> str:
    """Return what of a call must not change between a preview and its answer."""
    return f"{_status(call)} {_parties(call)}"


def _status(call: CallSummary | None) -> str:
    return (call.status or "in an unknown state") if call else "not placed yet"


def _parties(call: CallSummary) -> str:
    """Return the parties, quoted: strangers chose their names."""
    return f"from {_party(call.from_)} to {_party(call.to)}"


def _party(address: str | None) -> str:
    return quoted(address, _LONGEST_PARTY) if address else "unknown"


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
        return f"lasted {call.duration_seconds} s"
    since = call.started_at or call.created_at
    if since is None:
        return ""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    word = "started" if call.started_at else "created"
    return f"{word} {seconds} s ago" if call.live else f"{word} {since}"


def _instructions(active: Mapping[str, Json]) -> Iterator[str]:
    if "url" in active:
        method = active.get("method", "POST")
        yield f"It follows the TwiML at {_exactly(active['url'])} ({method})."
    if "twiml" in active:
        yield "It follows this TwiML:"
        # Behind a bar, no line of it can pass for one of ours.
        yield from (f"  | {line}" for line in _without_gaps(str(active["twiml"])))
    if "application_sid" in active:
        yield f"Application {active['application_sid']} handles it."
        if active.keys() & {"url", "twiml"}:
            yield "Which of these the API then follows is not documented."


def _without_gaps(text: str) -> Iterator[str]:
    """Yield the lines of a text; a word replaces many blank ones, so nothing goes out of sight."""
    for is_blank, lines in groupby(text.splitlines(), lambda line: not line.strip()):
        several = [*lines]
        if is_blank and len(several) > 1:
            yield f"({len(several)} blank lines)"
        else:
            yield from several


def _details(arguments: Arguments, active: Mapping[str, Json]) -> Iterator[str]:
    parameters = arguments.operation.parameters
    rest = {name: value for name, value in active.items() if name not in _MENTIONED}
    details = [_detail(parameters[name], value) for name, value in rest.items()]
    if details:
        yield f"Also: {', '.join(details)}."
    yield from (f"Note: {warning}." for warning in arguments.warnings)


def _detail(parameter: Parameter, value: object) -> str:
    shown = MASK if parameter.secret else _exactly(value)
    return f"{parameter.name} {shown} {parameter.unit}".rstrip()


def _caveats(action: Action, arguments: Arguments, call: CallSummary | None) -> Iterator[str]:
    if arguments.values.get("record") is True:
        yield "The call is RECORDED; the law may demand the consent of those on it."
    if action == "place":
        yield "It rings at once and costs money."
    if action == "delete":
        yield "This can't be undone."
    if action == "hang_up" and arguments.values.keys() & {"url", "twiml"}:
        yield "What the API does with a status and new instructions at once is not documented."
    elif action == "hang_up":
        yield from _hang_up_caveats(arguments, _status(call))


def _hang_up_caveats(arguments: Arguments, status: str) -> Iterator[str]:
    if arguments.values["status"] == "canceled" and status == "in-progress":
        yield "But canceled leaves a call in progress alone: only completed ends it."
    else:
        yield "Everybody on it is cut off."


def _exactly(value: object) -> str:
    """Return an argument as it is, in full: nothing of it is hidden from the user."""
    return json.dumps(value, ensure_ascii=False)
