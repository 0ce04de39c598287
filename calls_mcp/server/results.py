"""Conversion of an `Outcome` to a tool result: structured content, and text for a model."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime

from mcp_types import CallToolResult, TextContent

from calls_mcp.errors import KNOWN_ARGUMENT, NONE_OF_THEM, NOTHING, Fault
from calls_mcp.observability.redaction import quoted
from calls_mcp.tools.call_summary import LONGEST_ADDRESS, LONGEST_NAME, CallSummary
from calls_mcp.tools.catalog import Operation
from calls_mcp.tools.humanize import counted, duration
from calls_mcp.tools.outcome import Confirmation, Failure, Outcome

_ENDINGS = {
    "busy": "The line was busy",
    "no-answer": "Nobody answered",
    "failed": "The call failed",
    "canceled": "The call was canceled before it was answered",
}
_ANSWERED = {  # by the first word of answered_by
    "human": "A person answered",
    "machine": "An answering machine answered",
    "fax": "A fax machine answered",
    "unknown": "A person or a machine answered",
}
_BY_ANYONE = f"{_ANSWERED['unknown']} (no machine_detection result)"
_OF_CALLS = ("caller_name", "forwarded_from", "from", "to")
SANDBOX = "sandbox: no real calls"
UNTRUSTED = "calls-mcp/untrusted"
# Fields with text from strangers, which a host must treat as data and never as instructions.
_UNTRUSTED = {
    "call": _OF_CALLS,
    "calls": _OF_CALLS,
    "confirmation": ("preview",),
    "reason": ("reason",),
    "warnings": ("warnings",),
    "error": ("message",),
}


def to_result(operation: Operation, outcome: Outcome) -> CallToolResult:
    """Return the result of an invocation, for both a program and a model."""
    content = outcome.content()
    untrusted = [field for part in content for field in _UNTRUSTED.get(part, ())]
    return CallToolResult(
        content=[TextContent(text="\n".join(_lines(operation, outcome)))],
        structured_content=content,
        is_error=outcome.outcome == "error",
        _meta={UNTRUSTED: untrusted} if untrusted else None,
    )


def _lines(operation: Operation, outcome: Outcome) -> Iterator[str]:
    if outcome.sandbox:
        ended = outcome.call.sid if outcome.call and outcome.call.live is False else None
        more = f"; transcript, if any: calls://call/{ended}" if ended else ""
        yield f"[{SANDBOX}{more}]"
    if outcome.error:
        yield from _failure(outcome.error)
    if outcome.confirmation:
        yield from _question(operation, outcome.confirmation, outcome.reason or "")
    elif outcome.reason is not None:
        yield outcome.reason
    if outcome.deleted:
        yield f"Deleted the record of {outcome.deleted}."
    if outcome.call:
        yield from _call(outcome.call)
    if outcome.calls is not None:
        yield from _list(outcome.calls, outcome.next_cursor)
    shown = outcome.confirmation.preview if outcome.confirmation else ""
    notes = (f"Note: {warning}." for warning in outcome.warnings)
    yield from (note for note in notes if note not in shown)


def _call(call: CallSummary) -> Iterator[str]:
    if call.live is not False:
        yield _line(call)
    else:
        yield _line(call, has_figures=False)
        yield _ending(call)


def _ending(call: CallSummary) -> str:
    """Return how an ended call went, in words."""
    how = _ENDINGS.get(call.status or "", "The call has ended")
    if call.status == "no-answer" and call.started_at and call.ended_at:
        rang = datetime.fromisoformat(call.ended_at) - datetime.fromisoformat(call.started_at)
        how += f" for {duration(max(0, rang.total_seconds()))}"
    if call.status == "completed" and (call.answered_by or call.duration_seconds):
        kind = (call.answered_by or "").partition("_")[0]
        unknown = "The call was answered" if call.direction == "inbound" else _BY_ANYONE
        how = _ANSWERED.get(kind, unknown)
    if call.status == "completed" and call.duration_seconds is not None:
        how += f". Duration: {duration(call.duration_seconds)}"
    unknown = "not known yet" if call.status == "completed" else "none reported"
    return f"{how}. Cost: {_cost(call) or unknown}."


def _line(call: CallSummary, *, has_figures: bool = True) -> str:
    """Return a call as one line, with free text from strangers in quotes."""
    text = f"{call.sid} {call.status or 'status unknown'}"
    if call.direction:
        text += f" {call.direction}"
    text += f" {_address(call.from_ or 'unknown')} → {_address(call.to or 'unknown')}"
    if when := call.started_at or call.created_at:
        text += f" · {when.replace(':00Z', 'Z')}"
    if has_figures:
        text += _figures(call)
    if call.caller_name:
        text += f" · caller name {quoted(call.caller_name, LONGEST_NAME)}"
    return text


def _figures(call: CallSummary) -> str:
    text = ""
    if call.duration_seconds is not None:
        text += f" · {call.duration_seconds} s"
    if cost := _cost(call):
        text += f" · {cost}"
    if call.answered_by:
        text += f" · answered by {call.answered_by}"
    return text


def _cost(call: CallSummary) -> str:
    if not call.cost:
        return ""
    amount = f"{call.cost} {call.currency or ''}".rstrip()
    return f"credit of {amount[1:]}" if amount.startswith("-") else amount


def _address(text: str) -> str:
    return text if text.lstrip("+").isalnum() else quoted(text, LONGEST_ADDRESS)


def _list(calls: Sequence[CallSummary], next_cursor: str | None) -> Iterator[str]:
    yield counted(len(calls), "call") + (", newest first" if len(calls) > 1 else "")
    yield from map(_line, calls)
    if next_cursor is not None:
        yield f"There are more calls. To get them, call list_calls with only cursor={next_cursor}"


def _question(operation: Operation, confirmation: Confirmation, reason: str) -> Iterator[str]:
    token, until = confirmation.token, confirmation.expires_at
    if token is None:
        yield "Nothing has happened yet. The operator must approve this:"
        yield confirmation.preview
        yield f"{reason} (Approval request {confirmation.approval}, expires {until}.)"
        return
    yield "Nothing has happened yet. Your user must confirm this:"
    yield confirmation.preview
    yield (
        f"Show this to your user. Only if they agree, call {operation.name} again with the same "
        f"arguments and confirmation_token={token} (can be used once, expires {until})."
    )


def _failure(failure: Failure) -> Iterator[str]:
    yield f"{failure.kind}: {failure.message}"
    yield from map(_fault, failure.faults)
    yield failure.hint


def _fault(fault: Fault) -> str:
    text = f"- {_problem(fault)}"
    if fault.did_you_mean is not None:
        return f"{text}; did you mean {_json(fault.did_you_mean)}?"
    if fault.example is None:
        return text
    name = f"{fault.path.removeprefix('/')}=" if fault.received == NONE_OF_THEM else ""
    return f"{text}; for example {name}{_json(fault.example)}"


def _problem(fault: Fault) -> str:
    if fault.expected == KNOWN_ARGUMENT:
        return f"unknown argument {fault.received}"
    if fault.received == NONE_OF_THEM:
        return f"missing: {fault.expected}"
    got = "missing" if fault.received == NOTHING else f"got {fault.received}"
    return f"{fault.path.removeprefix('/')}: {got}; expected {fault.expected}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
