"""What webhooks are told about a call."""

from calls_mcp.emulator.call_lifecycle import LIVE, Call, CallEvent
from calls_mcp.emulator.clock import rfc2822
from calls_mcp.emulator.parameters import API_VERSION


def call_parameters(call: Call) -> dict[str, str]:
    """Return the parameters of every webhook of a call, except `AccountSid`."""
    values = {
        "CallSid": call.sid,
        "From": call.from_,
        "To": call.to,
        "Caller": call.from_,
        "Called": call.to,
        "Direction": call.direction,
        "ApiVersion": API_VERSION,
        "CallStatus": call.status,
    }
    if call.answered_by:
        values["AnsweredBy"] = call.answered_by
    return values


def status_parameters(event: CallEvent) -> dict[str, str]:
    """Return the parameters of a status callback, except `AccountSid`."""
    status, call = event
    values = call_parameters(call) | {
        "CallStatus": status,
        "CallbackSource": "call-progress-events",
        "SequenceNumber": str(call.reported),
        "Timestamp": rfc2822(call.updated),
    }
    if status not in LIVE | {"initiated"}:
        seconds = call.duration or 0
        values |= {"CallDuration": str(seconds), "Duration": str((seconds + 59) // 60)}
    return values
