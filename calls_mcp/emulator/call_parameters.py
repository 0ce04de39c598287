"""The parameters of webhooks about a call."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from calls_mcp.emulator.call_lifecycle import Call, CallEvent, is_reported
from calls_mcp.emulator.clock import rfc2822
from calls_mcp.emulator.numbers import country
from calls_mcp.emulator.parameters import API_VERSION, is_phone_number

_SIP_CODES: Mapping[str, str] = {
    "completed": "200",
    "busy": "486",
    "failed": "404",
    "no-answer": "487",
    "canceled": "487",
}


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
    optional = {
        "AnsweredBy": call.answered_by,
        "CallerName": call.caller_name,
        "ForwardedFrom": call.forwarded_from,
        "ParentCallSid": call.parent_call_sid,
    }
    values |= {name: value for name, value in optional.items() if value}
    return values | _places(call.from_, "From", "Caller") | _places(call.to, "To", "Called")


def _places(address: str, *parties: str) -> dict[str, str]:
    """Return where a number is from. Only its country is known."""
    if not is_phone_number(address):
        return {}
    place = {"City": "", "State": "", "Zip": "", "Country": country(address)}
    return {party + name: value for party in parties for name, value in place.items()}


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
        values |= {
            "CallDuration": str(seconds),
            "Duration": str((seconds + 59) // 60),
            "SipResponseCode": _SIP_CODES[call.status],
        }
    return values


def _detected(call: Call) -> Mapping[str, str]:
    milliseconds = round((call.detects_after or 0) * 1000)
    return {
        "CallSid": call.sid,
        "AnsweredBy": call.answered_by or "unknown",
        "MachineDetectionDuration": str(milliseconds),
    }
