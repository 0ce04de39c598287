"""How a call passes through time, and what an update does to its future."""

from dataclasses import dataclass, replace
from typing import Literal

from calls_mcp.emulator.call import Call, Status
from calls_mcp.emulator.errors import CALL_STATE, invalid
from calls_mcp.emulator.scripts import Detected, Script
from calls_mcp.emulator.twiml import hangs_up_after

DEFAULT_TIMEOUT = 60
DEFAULT_TIME_LIMIT = 14_400

Detection = Literal["Enable", "DetectMessageEnd"]

FINDINGS: dict[tuple[Detection, Detected], str] = {
    ("Enable", "machine"): "machine_start",
    ("DetectMessageEnd", "machine"): "machine_end_beep",
    ("DetectMessageEnd", "machine_start"): "machine_end_beep",
    ("Enable", "machine_end_beep"): "machine_start",
    ("Enable", "machine_end_silence"): "machine_start",
    ("Enable", "machine_end_other"): "machine_start",
}


@dataclass(frozen=True)
class Plan:
    """When a new call rings, is answered and ends, in seconds since the epoch.

    `leaves_at` is when whoever answered it would hang up.
    """

    ring_at: float
    answer_at: float | None
    end_at: float
    end_as: Status
    leaves_at: float | None = None


def plan(script: Script, ring_at: float, timeout: float, time_limit: float) -> Plan:
    """The life of a call to a destination that follows the script.

    Args:
        script: What the destination does.
        ring_at: When it is dialled.
        timeout: Seconds it may ring.
        time_limit: Seconds it may talk.
    """
    if script.end_as == "no-answer" or script.answer_after > timeout:
        return Plan(ring_at, None, ring_at + timeout, "no-answer")
    reacts_at = ring_at + script.answer_after
    if script.end_as != "completed":
        return Plan(ring_at, None, reacts_at, script.end_as)
    leaves_at = reacts_at + script.talk_for
    end_at = min(leaves_at, reacts_at + time_limit)
    return Plan(ring_at, reacts_at, end_at, "completed", leaves_at)


def finding(detection: Detection, answered_by: Detected) -> str:
    """What answering-machine detection reports about this destination."""
    return FINDINGS.get((detection, answered_by), answered_by)


def require_live(call: Call) -> None:
    """Refuse to change a call that is over.

    Raises:
        ApiError: 400 with code 21220.
    """
    if not call.live:
        raise invalid(f"Call {call.sid} is {call.status}. It cannot be changed.", CALL_STATE)


def require_over(call: Call) -> None:
    """Refuse to delete a call that still goes on.

    Raises:
        ApiError: 400 with code 21220.
    """
    if call.live:
        raise invalid(
            f"Call {call.sid} is still live ({call.status}). It cannot be deleted.", CALL_STATE
        )


def redirected(call: Call, now: float, *, url: str | None, twiml: str | None) -> Call:
    """The call with new instructions, which may hang up."""
    seconds = hangs_up_after(twiml) if twiml else None
    begins_at = max(call.answer_at or now, now)
    hangs_up_at = None if seconds is None else begins_at + seconds
    call = replace(call, url=url, twiml=twiml, hangs_up_at=hangs_up_at, updated=now)
    return _rescheduled(call, now)


def reporting(call: Call, now: float, *, url: str | None, method: str | None) -> Call:
    """The call with another place, or another method, to tell its progress by."""
    return replace(
        call,
        callback_url=url or call.callback_url,
        callback_method=method or call.callback_method,
        updated=now,
    )


def limited(call: Call, now: float, seconds: float) -> Call:
    """The call with another limit to its seconds of talk."""
    return _rescheduled(replace(call, time_limit=seconds, updated=now), now)


def _rescheduled(call: Call, now: float) -> Call:
    """The call with its end where the first of all that may end it is, but not in the past."""
    if call.answer_at is None:
        return call
    ends = [call.end_at if call.leaves_at is None else call.leaves_at]
    ends += [] if call.time_limit is None else [call.answer_at + call.time_limit]
    ends += [] if call.hangs_up_at is None else [call.hangs_up_at]
    return replace(call, end_at=max(now, min(ends)))


def ended(call: Call, now: float, status: Literal["canceled", "completed"]) -> Call:
    """The call as it is after somebody asked for its end; `canceled` spares an answered one."""
    if call.status != "in-progress":
        return replace(call, status=status, answer_at=None, end_at=now, ended=now, updated=now)
    if status == "canceled":
        return call
    return replace(call, end_at=now, end_as=status, updated=now)


def following(peer: Call, call: Call) -> Call:
    """The other record of the same conversation, with the same fate."""
    return replace(
        peer,
        status=call.status,
        answer_at=call.answer_at,
        end_at=call.end_at,
        end_as=call.end_as,
        ended=call.ended,
        updated=call.updated,
    )
