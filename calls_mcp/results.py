"""`Outcome` → `CallToolResult`: the structured content, and the text a model reads."""

import json
from collections.abc import Iterator

from mcp_types import CallToolResult, TextContent

from calls_mcp.catalog import Operation
from calls_mcp.outcome import CallSummary, Confirmation, Failure, Fault, Outcome
from calls_mcp.redaction import one_line, quoted

_LONGEST_ADDRESS = 48  # characters; SIP addresses can be long, numbers are not

_OF_CALLS = ("caller_name", "forwarded_from", "from", "to")
# Fields that may hold what strangers have chosen: data for a host to show, never instructions.
_UNTRUSTED = {
    "call": _OF_CALLS,
    "calls": _OF_CALLS,
    "confirmation": ("preview",),
    "reason": ("reason",),
    "error": ("message",),
}


def to_result(operation: Operation, outcome: Outcome) -> CallToolResult:
    """The result of an invocation, as both a program and a model read it."""
    untrusted = [field for part in outcome for field in _UNTRUSTED.get(part, ())]
    return CallToolResult(
        content=[TextContent(text="\n".join(_lines(operation, outcome)))],
        structured_content={**outcome},
        is_error=outcome["outcome"] == "error",
        _meta={"calls-mcp/untrusted": untrusted} if untrusted else None,
    )


def _lines(operation: Operation, outcome: Outcome) -> Iterator[str]:
    if outcome.get("sandbox"):
        yield "[sandbox: no real telephone]"
    if "error" in outcome:
        yield from _failure(outcome["error"])
    if "confirmation" in outcome:
        yield from _question(operation, outcome["confirmation"], outcome.get("reason", ""))
    elif "reason" in outcome:
        yield f"{outcome['outcome'].capitalize()}: {outcome['reason']}"
    if "deleted" in outcome:
        yield f"Deleted the record of {outcome['deleted']}."
    if "call" in outcome:
        yield line(outcome["call"])
    if "calls" in outcome:
        yield from _list(outcome["calls"], outcome.get("next_cursor"))
    if "confirmation" not in outcome:  # whose preview tells them
        yield from (f"Note: {warning}." for warning in outcome.get("warnings", []))


def line(call: CallSummary) -> str:
    """A call in one line: what strangers chose is shortened, and quoted where it is free text."""
    text = f"{call['sid']} {call.get('status', 'status unknown')}"
    if "direction" in call:
        text += f" {call['direction']}"
    text += f" {_address(call.get('from', 'unknown'))} → {_address(call.get('to', 'unknown'))}"
    if when := call.get("started_at") or call.get("created_at"):
        text += f" · {when.replace(':00Z', 'Z')}"
    if "duration_seconds" in call:
        text += f" · {call['duration_seconds']} s"
    if "cost" in call:
        text += f" · {call['cost']} {call.get('currency', '')}".rstrip()
    if "answered_by" in call:
        text += f" · answered by {call['answered_by']}"
    if "caller_name" in call:
        text += f" · caller name {quoted(call['caller_name'], 40)}"
    return text


def _address(text: str) -> str:
    plain = one_line(text, _LONGEST_ADDRESS)
    return plain if plain.lstrip("+").isalnum() else quoted(text, _LONGEST_ADDRESS)


def _list(calls: list[CallSummary], next_cursor: str | None) -> Iterator[str]:
    yield f"{len(calls)} call{'' if len(calls) == 1 else 's'}{', newest first' if calls else ''}"
    yield from map(line, calls)
    if next_cursor is not None:
        yield f"More: call list_calls with cursor={next_cursor}"


def _question(operation: Operation, confirmation: Confirmation, reason: str) -> Iterator[str]:
    token, until = confirmation.get("token"), confirmation.get("expires_at", "")
    if token is None:
        yield "This is what would happen:"
        yield confirmation["preview"]
        yield f"{reason} (Approval {confirmation.get('approval')}, until {until}.)"
        return
    yield "Nothing has happened yet. This is what would:"
    yield confirmation["preview"]
    yield (
        f"Show this to your user. Only if they agree, call {operation.name} again with the same "
        f"arguments and confirmation_token={token} (works once, until {until})."
    )


def _failure(failure: Failure) -> Iterator[str]:
    yield f"{failure['kind']}: {failure['message']}"
    yield from map(_fault, failure.get("faults", []))
    yield failure["hint"]


def _fault(fault: Fault) -> str:
    text = f"- {fault['path']}: expected {fault['expected']}"
    if "received" in fault:
        text += f"; got {fault['received']}"
    if "did_you_mean" in fault:
        return f"{text}; did you mean {_json(fault['did_you_mean'])}?"
    return f"{text}; for example {_json(fault['example'])}" if "example" in fault else text


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
