"""`Arguments` → `Question`: what the user is asked first, in plain words and in full."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from calls_mcp.errors import NotApplicable
from calls_mcp.observability.redaction import MASK, quoted
from calls_mcp.storage.models import Action, Binding
from calls_mcp.tools.catalog import Json, Parameter
from calls_mcp.tools.outcome import CallSummary
from calls_mcp.tools.validation import Arguments

_LONGEST_PARTY = 256  # characters of what the API says of a call

# Told in the first sentences of a preview; everything else is listed after them.
_TOLD = frozenset(
    {"account_sid", "sid", "to", "from", "status", "url", "method", "twiml", "application_sid"}
)


@dataclass(frozen=True, slots=True)
class Situation:
    """What an invocation is up against: the account, the call as it is now, and the time (UTC).

    `call` is None where there is none yet.
    """

    account_sid: str
    call: CallSummary | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Question:
    """What the user is asked.

    `state` is what must still be true when it is acted on: what the preview says of the call, or
    else marks, a line each, of what stands against placing it.
    """

    action: Action
    preview: str
    state: str


def bind(arguments: Arguments, account_sid: str, principal: str) -> Binding:
    """The binding of these arguments on this account; the digest covers every one of them."""
    exact = json.dumps([account_sid, arguments.values], sort_keys=True)
    digest = hashlib.sha256(exact.encode()).hexdigest()
    return Binding(arguments.operation.name, digest, principal)


def ask(
    arguments: Arguments,
    situation: Situation,
    held: Sequence[str] = (),
    marks: Collection[str] = (),
) -> Question:
    """The question to put to the user.

    `held` says why even a harmless one is put, and `marks` stand for that in its state.

    Raises:
        NotApplicable: The call is in a state in which the API is sure to refuse.
    """
    action = action_of(arguments)
    refuse_if_pointless(action, situation.call)
    active = {k: v for k, v in arguments.values.items() if k not in arguments.ignored}
    lines = [
        _headline(action, arguments, situation),
        *_instructions(active),
        *_details(arguments, active),
        *_caveats(action, arguments, situation.call),
        *held,
    ]
    state = state_of(situation.call) if situation.call else "\n".join(sorted(marks))
    return Question(action, "\n".join(lines), state)


def action_of(arguments: Arguments) -> Action:
    """What the user would call it."""
    effect, values = arguments.operation.effect, arguments.values
    if effect in ("place", "delete"):
        return "place" if effect == "place" else "delete"
    if "status" in values:
        return "hang_up"
    return "redirect" if values.keys() & {"url", "twiml"} else "modify"


def refuse_if_pointless(action: Action, call: CallSummary | None) -> None:
    """Refuse what the API would refuse, before anybody is asked about it.

    Raises:
        NotApplicable: A change of an ended call, or the deletion of a live one.
    """
    live = call.live if call else None
    if action == "delete" and live:
        raise NotApplicable(
            f"Nothing was sent: the call is still {call_status(call)}, and only the record of an "
            "ended call can be deleted.",
            "End it first with update_call and status=completed, then delete it.",
        )
    if action in ("hang_up", "redirect", "modify") and live is False:
        raise NotApplicable(
            f"Nothing was sent: the call has ended ({call_status(call)}), and an ended call can't "
            "be changed.",
            "If it was to be hung up, nothing is left to do. To speak to them again, place a new "
            "call with create_call.",
        )


def state_of(call: CallSummary) -> str:
    """What of a call must not change between a question and its answer, strangers' words quoted."""
    return f"{call_status(call)} from {_party(call.from_)} to {_party(call.to)}"


def differences(state: str, now: CallSummary) -> str:
    """What has changed since a question was asked in this `state`; empty if nothing has."""
    if state == state_of(now):
        return ""
    return f"The call has changed: it was shown as {state}, and it is {state_of(now)}."


def call_status(call: CallSummary | None) -> str:
    """The call's status, or that it is not known."""
    return (call.status or "in an unknown state") if call else "not placed yet"


def _headline(action: Action, arguments: Arguments, situation: Situation) -> str:
    account = f"account {situation.account_sid}"
    if situation.call is None:
        parties = f"{_exactly(arguments.values['to'])} from {_exactly(arguments.values['from'])}"
        return f"Place a call to {parties} ({account})."
    verb = {
        "hang_up": "Hang up",
        "redirect": "Redirect",
        "modify": "Change",
        "delete": "Delete for good the record of",
    }.get(action, "Change")
    return (
        f"{verb} call {situation.call.sid} ({account}): {describe(situation.call, situation.now)}."
    )


def describe(call: CallSummary, now: datetime) -> str:
    """The call as it is now: status, direction, parties, how long it has lasted or did last."""
    parties = f"from {_party(call.from_)} to {_party(call.to)}"
    parts = [call_status(call), call.direction, parties, _age(call, now)]
    return ", ".join(part for part in parts if part)


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
    """The lines of a text, with a word for many blank ones: nothing is pushed out of sight."""
    for is_blank, lines in groupby(text.splitlines(), lambda line: not line.strip()):
        several = [*lines]
        if is_blank and len(several) > 1:
            yield f"({len(several)} blank lines)"
        else:
            yield from several


def _details(arguments: Arguments, active: Mapping[str, Json]) -> Iterator[str]:
    parameters = arguments.operation.parameters
    rest = {name: value for name, value in active.items() if name not in _TOLD}
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
        yield from _hang_up_caveats(arguments, call_status(call))


def _hang_up_caveats(arguments: Arguments, status: str) -> Iterator[str]:
    if arguments.values["status"] == "canceled" and status == "in-progress":
        yield "But canceled leaves a call in progress alone: only completed ends it."
    else:
        yield "Everybody on it is cut off."


def _exactly(value: object) -> str:
    """An argument as it is, in full: nothing of it is hidden from the user."""
    return json.dumps(value, ensure_ascii=False)


def _party(address: str | None) -> str:
    return quoted(address, _LONGEST_PARTY) if address else "unknown"
