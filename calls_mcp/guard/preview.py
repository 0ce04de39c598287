"""The preview of a change: in plain words, and with nothing hidden."""

import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from calls_mcp.errors import NotApplicable
from calls_mcp.guard.calling_hours import local_times
from calls_mcp.guard.change import LONGEST_CALL, Change, state_of, status_of
from calls_mcp.guard.policy.destinations import is_premium_rate, numbers_of, party
from calls_mcp.guard.policy.evaluation import parties
from calls_mcp.guard.policy.twiml import records
from calls_mcp.guard.repeated_calls import EarlierCalls
from calls_mcp.guard.twiml_document import without_passwords
from calls_mcp.guard.twiml_words import in_words
from calls_mcp.observability.redaction import MASK, quoted
from calls_mcp.tools.call_summary import LONGEST_ADDRESS, CallSummary
from calls_mcp.tools.catalog import Action, Json, Parameter
from calls_mcp.tools.humanize import about, duration, exactly, formatted, plain, shown
from calls_mcp.tools.outcome import Preview, Risk
from calls_mcp.tools.validation import Arguments

_VERBS: Mapping[Action, str] = {
    "hang_up": "Hang up the call",
    "redirect": "Give new instructions to the call",
    "modify": "Change the call",
    "delete": "Permanently delete the record of the call",
}
_ENDS = {
    "completed": "has ended",
    "busy": "got a busy signal",
    "no-answer": "was not answered",
    "failed": "failed",
    "canceled": "was canceled",
}
_AMBIGUOUS = Risk(
    "Conflicting instructions",
    "The API's documentation does not say whether the call follows application_sid, url or twiml.",
)
_LABELS = {"hours.outside": "Outside calling hours", "hours.unknown": "Unknown local time"}
_RECORDED = Risk("Recorded", "The law may require the consent of everyone on the call.")


@dataclass(frozen=True, slots=True)
class Question:
    """The preview of an action, and the state that must be unchanged when the change is made.

    This is the state of the call, if it exists, and the ids of recent calls and the last calls to
    the same parties and of calls outside calling hours, one per line.
    """

    action: Action
    preview: Preview
    state: str


def question_about(
    change: Change, call: CallSummary | None, now: datetime, recent: EarlierCalls
) -> Question:
    """Return the question about a change to `call` (None for a new call) at the time `now` (UTC).

    Raises:
        NotApplicable: The call is in a state in which the API would refuse the change.
    """
    arguments, action = change.arguments, change.arguments.action
    _refuse_if_pointless(arguments, action, call)
    active = {k: v for k, v in arguments.values.items() if k not in arguments.ignored}
    said = arguments.own.get("say")
    twiml = "" if said else str(active.get("twiml", ""))
    exact = _exact(arguments.operation.parameters, active, change.added, said)
    preview = Preview(
        headline=_headline(change, action, call),
        requester=quoted(change.caller.principal),
        facts=(*_facts(change, action, call, now), *_limits(arguments, active)),
        heard=tuple(_heard(active)),
        risks=(
            *_risks(change, active),
            *(Risk("Repeated", each) for each in recent.reasons),
            *recent.risks,
        ),
        details=tuple(_details(change, call)),
        arguments=tuple(exact),
        twiml="\n".join(_without_gaps(without_passwords(twiml))),
    )
    noticed = sorted({*recent.ids, *recent.last, *(each.id for each in change.outside_hours)})
    state = "\n".join([*([state_of(call)] if call else []), *noticed])
    return Question(action, preview, state)


def _refuse_if_pointless(arguments: Arguments, action: Action, call: CallSummary | None) -> None:
    """Refuse what the API would refuse or ignore, before anyone is asked.

    Raises:
        NotApplicable: A change to an ended call, the deletion of a live one, or `canceled` for a
            call in progress.
    """
    live = call.live if call else None
    if action == "delete" and live:
        raise NotApplicable(
            f"Nothing was sent: the call is still {status_of(call)}, and only the record of an "
            "ended call can be deleted.",
            "End it first with update_call and status=completed, then delete it.",
        )
    if action in ("hang_up", "redirect", "modify") and live is False:
        raise NotApplicable(
            f"Nothing was sent: the call has ended ({status_of(call)}), and an ended call can't "
            "be changed.",
            "If you wanted to hang up, there is nothing left to do. To call again, use "
            "create_call.",
        )
    is_in_progress = call is not None and call.status == "in-progress"
    if is_in_progress and arguments.values.get("status") == "canceled":
        raise NotApplicable(
            "Nothing was sent: the call is in progress; status=canceled only ends a queued or "
            "ringing call.",
            "To end it, use status=completed. Otherwise, leave status out.",
        )


def _party(address: str | None) -> str:
    """Return a party of a call: a number, or the text of a stranger in quotes."""
    if not address:
        return "unknown"
    number = formatted(address)
    return number if number != address else quoted(address, LONGEST_ADDRESS)


def _headline(change: Change, action: Action, call: CallSummary | None) -> str:
    if call is None:
        return f"Call {shown(str(change.arguments.values['to']))}"
    return f"{_VERBS[action]} from {_party(call.from_)} to {_party(call.to)}"


def _facts(
    change: Change, action: Action, call: CallSummary | None, now: datetime
) -> Iterator[str]:
    if call is None:
        values = change.arguments.values
        time = str(local_times(str(values["to"]), now))
        if time and not any(time in each.reason for each in change.outside_hours):
            yield f"The time there is {time}."
        yield f"The caller ID is {shown(str(values.get('caller_id', values['from'])))}."
        yield "The call is placed immediately and costs money."
        return
    yield _history(call, now)
    yield from _consequences(change, action)


def _history(call: CallSummary, now: datetime) -> str:
    status = _ENDS.get(call.status or "") or f"is {status_of(call)}"
    direction = f" ({plain(call.direction)})" if call.direction else ""
    if call.status == "completed" and call.duration_seconds is not None:
        return f"The call {status}{direction} and lasted {duration(call.duration_seconds)}."
    since = call.started_at or call.created_at
    if since is None:
        return f"The call {status}{direction}."
    word = "started" if call.started_at else "was created"
    if call.live:
        seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
        return f"The call {status}{direction} and {word} {about(seconds)} ago."
    return f"The call{direction} {word} at {since[:16].replace('T', ' ')} UTC and {status}."


def _consequences(change: Change, action: Action) -> Iterator[str]:
    values = change.arguments.values
    if action == "delete":
        yield "You can't undo this."
    elif action != "hang_up":
        return
    elif values.keys() & {"url", "twiml"}:
        yield (
            "The API's documentation does not say whether the call ends or follows the new "
            "instructions."
        )
    else:
        yield "Everyone on the call is disconnected."


def _limits(arguments: Arguments, active: Mapping[str, Json]) -> Iterator[str]:
    usual = LONGEST_CALL if arguments.operation.effect == "place" else None
    longest = active.get("time_limit", usual)
    if isinstance(longest, int):
        limit = "It lasts at most" if usual else "Its maximum length becomes"
        yield f"{limit} {duration(longest)}."


def _heard(active: Mapping[str, Json]) -> Iterator[str]:
    if "send_digits" in active:
        yield f"It presses {exactly(str(active['send_digits']))}."
    if "twiml" in active:
        yield from in_words(str(active["twiml"]))


def _risks(change: Change, active: Mapping[str, Json]) -> Iterator[Risk]:
    yield from (Risk(_LABELS[each.rule], each.sentence) for each in change.outside_hours)
    called = map(party, parties(change.arguments))
    for number in sorted({each for to in called for each in numbers_of(to)}):
        if is_premium_rate(number):
            yield Risk("Premium-rate number", f"Calls to {formatted(number)} can be expensive.")
    for source in _sources(active):
        yield Risk("Unknown instructions", f"{source} decides what is heard.")
    if "fallback_url" in active:
        source = _url(active, "fallback_url", "fallback_method")
        yield Risk("Fallback", f"If the call's instructions fail, {source} decides what is heard.")
    if "application_sid" in active and active.keys() & {"url", "twiml"}:
        yield _AMBIGUOUS
    if active.get("record") is True or records(str(active.get("twiml", ""))):
        yield _RECORDED


def _sources(active: Mapping[str, Json]) -> Iterator[str]:
    """Yield the sources of instructions that this server can't see."""
    if "url" in active:
        yield _url(active, "url", "method")
    if "application_sid" in active:
        yield f"The application {active['application_sid']}"


def _url(active: Mapping[str, Json], url: str, method: str) -> str:
    return f"{exactly(str(active[url]))} ({active.get(method, 'POST')})"


def _details(change: Change, call: CallSummary | None) -> Iterator[str]:
    yield f"Account {change.request.account_sid}."
    if call is not None:
        yield f"SID {call.sid}."
    yield from (f"Note: {warning}." for warning in change.arguments.warnings)


def _exact(
    parameters: Mapping[str, Parameter],
    active: Mapping[str, Json],
    added: Container[str],
    said: str | None,
) -> Iterator[tuple[str, str]]:
    for name, value in active.items():
        if name != "twiml":
            shown_value = MASK if parameters[name].secret else json.dumps(value, ensure_ascii=False)
            origin = " (set by the policy)" if name in added else ""
            unit = parameters[name].unit.removesuffix("s" if value == 1 else "")
            yield name, f"{shown_value} {unit}".rstrip() + origin
        elif said:  # the sentence about it has single spaces
            is_shown = said == " ".join(said.split())
            yield "say", "(shown above)" if is_shown else json.dumps(said, ensure_ascii=False)


def _without_gaps(text: str) -> Iterator[str]:
    """Yield the lines of a text. Several blank lines become one note, so none hides the rest."""
    for is_blank, lines in groupby(text.splitlines(), lambda line: not line.strip()):
        several = [*lines]
        if is_blank and len(several) > 1:
            yield f"({len(several)} blank lines)"
        else:
            yield from several
