"""The parameters of webhooks about a call."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from calls_mcp.emulator.call_lifecycle import Call, CallEvent, is_reported
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


class EventCallback(NamedTuple):
    """A callback about an event of a call; its form lacks `AccountSid`."""

    url: str
    method: str
    form: Mapping[str, str]


def event_callbacks(event: CallEvent) -> Iterator[EventCallback]:
    """Yield the callbacks about an event of a call."""
    call = event.call
    if call.callback_url and is_reported(event):
        yield EventCallback(call.callback_url, call.callback_method, _status_parameters(event))
    if call.amd_callback_url and event.name == "detected":
        yield EventCallback(call.amd_callback_url, call.amd_callback_method, _detected(call))


def _status_parameters(event: CallEvent) -> Mapping[str, str]:
    name, call = event
    values = call_parameters(call) | {
        "CallStatus": name if name in {"initiated", "ringing"} else call.status,
        "CallbackSource": "call-progress-events",
        "SequenceNumber": str(call.reported),
        "Timestamp": rfc2822(call.updated),
    }
    if name == "completed":
        seconds = call.duration or 0
        values |= {"CallDuration": str(seconds), "Duration": str((seconds + 59) // 60)}
    return values


def _detected(call: Call) -> Mapping[str, str]:
    milliseconds = round((call.detects_after or 0) * 1000)
    return {
        "CallSid": call.sid,
        "AnsweredBy": call.answered_by or "unknown",
        "MachineDetectionDuration": str(milliseconds),
    }
