"""The state machine of a call: its plan, how time carries the plan out, how an update changes it.

`queued` → `ringing` → `in-progress` → `completed`, or over before the answer. A call always knows
when it changes next (`due`), so nothing has to watch it: whoever looks advances it first.
"""

from typing import Literal, NamedTuple
from xml.etree import ElementTree as ET

from calls_mcp.emulator.calls import Call, Status
from calls_mcp.emulator.parameters import CALL_STATE, invalid
from calls_mcp.emulator.scenario import Detected, Script

DEFAULT_TIMEOUT = 60
DEFAULT_TIME_LIMIT = 14_400
PRICE_PER_MINUTE = 0.013
PRICE_DELAY = 5
_MOST_DIGITS = 6

Detection = Literal["Enable", "DetectMessageEnd"]

_FINDINGS: dict[tuple[Detection, Detected], str] = {
    ("Enable", "machine"): "machine_start",
    ("DetectMessageEnd", "machine"): "machine_end_beep",
    ("DetectMessageEnd", "machine_start"): "machine_end_beep",
    ("Enable", "machine_end_beep"): "machine_start",
    ("Enable", "machine_end_silence"): "machine_start",
    ("Enable", "machine_end_other"): "machine_start",
}


class Plan(NamedTuple):
    """When a new call rings, is answered and ends, in seconds since the epoch.

    `leaves_at` is when the person who answered would hang up.
    """

    ring_at: float
    answer_at: float | None
    end_at: float
    end_as: Status
    leaves_at: float | None = None


def plan(script: Script, ring_at: float, timeout: float, time_limit: float) -> Plan:
    """Plan a call that is dialled at `ring_at` to a destination that follows the script."""
    if script.end_as == "no-answer" or script.answer_after > timeout:
        return Plan(ring_at, None, ring_at + timeout, "no-answer")
    reacts_at = ring_at + script.answer_after
    if script.end_as != "completed":
        return Plan(ring_at, None, reacts_at, script.end_as)
    leaves_at = reacts_at + script.talk_for
    end_at = min(leaves_at, reacts_at + time_limit)
    return Plan(ring_at, reacts_at, end_at, "completed", leaves_at)


def finding(detection: Detection, answered_by: Detected) -> str:
    """Return what answering-machine detection reports about a destination."""
    return _FINDINGS.get((detection, answered_by), answered_by)


def hangs_up_after(twiml: str | None) -> float | None:
    """Return after how many seconds the instructions hang up, None if they don't.

    `<Pause>` takes its time, any other verb none.
    """
    try:
        response = ET.fromstring(twiml or "")  # noqa: S314 - 4000 characters at most, and expat is on guard
    except ET.ParseError:
        return None
    seconds = 0.0
    for verb in response:
        if verb.tag == "Hangup":
            return seconds
        if verb.tag == "Pause":
            seconds += _length(verb.get("length", "1"))
    return None


def _length(text: str) -> int:
    is_sane = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    return int(text) if is_sane else 0


# Time


class Event(NamedTuple):
    """An event of a call's life that its owner asked to be told.

    Attributes:
        status: The status that the callback reports.
        call: The call right after the event; `call.updated` is the time of the event.
    """

    status: str
    call: Call


def due(call: Call) -> float | None:
    """Return when the call changes next by itself, None if it never does."""
    if call.status == "queued":
        return min(call.ring_at, call.end_at)
    if call.live:
        return call.answer_at if _will_be_answered(call) else call.end_at
    return call.price_at if call.price is None else None


def advanced(call: Call, now: float) -> tuple[Call, list[Event]]:
    """Return the call as it is now, and the events on the way there."""
    events: list[Event] = []
    while (at := due(call)) is not None and at <= now:
        call, names = _next(call, at)
        if call.callback_url:
            wanted = [name for name in names if name in call.callback_events.split()]
            events += [Event(_reported(name, call), call) for name in wanted]
    return call, events


def _next(call: Call, at: float) -> tuple[Call, tuple[str, ...]]:
    """Return the call after its next change, and the names of the events."""
    if not call.live:
        return call._replace(price=_price(call), updated=at), ()
    if call.status == "queued" and call.ring_at <= call.end_at:
        call = call._replace(status="ringing", started=at, updated=at)
        # a call that fails at once never rings
        return call, ("initiated", "ringing") if call.end_at > at else ("initiated",)
    if _will_be_answered(call):
        call = call._replace(status="in-progress", answered_by=call.detects, updated=at)
        return call, ("answered",)
    return _over(call, at), ("completed",)


def _will_be_answered(call: Call) -> bool:
    return call.status == "ringing" and call.answer_at is not None and call.answer_at <= call.end_at


def _over(call: Call, at: float) -> Call:
    call = call._replace(status=call.end_as, ended=at, updated=at)
    if call.answer_at is None:
        return call
    return call._replace(duration=int(at - call.answer_at + 0.5), price_at=at + PRICE_DELAY)


def _price(call: Call) -> float:
    if call.fixed_price is not None:
        return call.fixed_price
    return -PRICE_PER_MINUTE * ((max(call.duration or 0, 1) + 59) // 60)


def _reported(event: str, call: Call) -> str:
    return event if event in {"initiated", "ringing"} else call.status


# Updates


def require_live(call: Call) -> None:
    """Raise ApiError (21220) for a call that is over: it cannot be changed."""
    if not call.live:
        raise invalid(f"Call {call.sid} is {call.status}. It cannot be changed.", CALL_STATE)


def require_over(call: Call) -> None:
    """Raise ApiError (21220) for a call that is not over: it cannot be deleted."""
    if call.live:
        state = f"still live ({call.status})"
        raise invalid(f"Call {call.sid} is {state}. It cannot be deleted.", CALL_STATE)


def redirected(call: Call, now: float, *, url: str | None, twiml: str | None) -> Call:
    """Return the call with new instructions, which may hang up."""
    seconds = hangs_up_after(twiml)
    begins_at = max(call.answer_at or now, now)
    hangs_up_at = None if seconds is None else begins_at + seconds
    return _rescheduled(call._replace(url=url, twiml=twiml, hangs_up_at=hangs_up_at), now)


def limited(call: Call, now: float, seconds: float) -> Call:
    """Return the call with another limit to its seconds of talk."""
    return _rescheduled(call._replace(time_limit=seconds), now)


def _rescheduled(call: Call, now: float) -> Call:
    """End the call at the first moment that ends it, but not in the past."""
    call = call._replace(updated=now)
    if call.answer_at is None:
        return call
    ends = [call.end_at if call.leaves_at is None else call.leaves_at]
    ends += [] if call.time_limit is None else [call.answer_at + call.time_limit]
    ends += [] if call.hangs_up_at is None else [call.hangs_up_at]
    return call._replace(end_at=max(now, min(ends)))


def ended(call: Call, now: float, status: Literal["canceled", "completed"]) -> Call:
    """Return the call with its end now; `canceled` leaves an answered call alone."""
    if call.status != "in-progress":
        return call._replace(answer_at=None, end_at=now, end_as=status, updated=now)
    if status == "canceled":
        return call
    return call._replace(end_at=now, end_as=status, updated=now)


def following(peer: Call, call: Call) -> Call:
    """Return the other record of the same conversation, with the same plan."""
    return peer._replace(
        answer_at=call.answer_at, end_at=call.end_at, end_as=call.end_as, updated=call.updated
    )
