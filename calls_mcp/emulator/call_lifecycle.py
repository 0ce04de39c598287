"""The lifecycle of a call: its record, its plan, and how time and updates change it.

A call goes from `queued` to `ringing`, `in-progress` and `completed`, or ends without an answer.
Each call knows when it changes next (`due`). There is no timer, because the store advances the
calls before each access.
"""

import secrets
from math import floor
from typing import Literal, NamedTuple

from calls_mcp.emulator.scenario import AnsweredBy, Script

Status = Literal[
    "queued", "ringing", "in-progress", "completed", "busy", "no-answer", "failed", "canceled"
]
Direction = Literal["inbound", "outbound-api", "outbound-dial"]
EventName = Literal["initiated", "ringing", "answered", "detected", "completed"]

LIVE: frozenset[Status] = frozenset({"queued", "ringing", "in-progress"})
DEFAULT_TIMEOUT = 60  # seconds of ringing
DEFAULT_TIME_LIMIT = 14_400  # seconds of talk
PRICE_PER_MINUTE = 0.013
PRICE_DELAY = 5  # seconds


class Call(NamedTuple):
    """The record of a call, and the plan for its future.

    Times are in seconds since the epoch. `ring_at`, `answer_at`, `end_at`, `end_as` and `detects`
    are the plan. `status`, `started`, `ended`, `duration`, `answered_by` and `price` follow from it
    as time passes.
    """

    sid: str  # `CA` and 32 hexadecimal digits
    to: str  # the called address
    from_: str  # the calling address
    direction: Direction  # whether the account placed or received it
    status: Status  # the current status
    created: float  # when the request arrived
    updated: float  # when the record last changed
    ring_at: float  # when it is dialed
    answer_at: float | None = None  # when it is answered, None if it never is
    end_at: float = float("inf")  # when it ends
    end_as: Status = "completed"  # the status it ends with
    leaves_at: float | None = None  # when the destination would hang up, None if unknown
    time_limit: float | None = None  # the maximum seconds of talk, None for no limit
    detects: str | None = None  # the future result of detection, None if it was not requested
    detects_after: float | None = None  # seconds from answer to result, None if they come together
    started: float | None = None  # the second in which it was dialed, None before
    ended: float | None = None  # the second of its end as `completed`, None before
    duration: int | None = None  # whole seconds of talk, None before the end and without an answer
    answered_by: str | None = None  # the detection's result, None before the answer
    price: float | None = None  # the cost in US dollars, negative; None until it is known
    peer_sid: str | None = None  # the other record of a call between two numbers of the account
    parent_call_sid: str | None = None  # the call that spawned it
    caller_name: str | None = None  # the caller's name as the network reported it
    forwarded_from: str | None = None  # the number that forwarded the call
    url: str | None = None  # where its instructions are fetched
    twiml: str | None = None  # its instructions, if they came with the request
    fixed_price: float | None = None  # the future cost, if the destination has its own price
    callback_url: str | None = None  # the URL that receives status callbacks, None for no callbacks
    callback_method: str = "POST"  # `GET` or `POST`
    callback_events: str = "completed"  # the events that are sent there, separated by spaces
    reported: int = 0  # how many events were sent there
    records: str | None = None  # the `RecordingOptions` of the whole call, as JSON
    amd_callback_url: str | None = None  # the URL that receives a result that comes later
    amd_callback_method: str = "POST"  # `GET` or `POST`

    @property
    def live(self) -> bool:
        """Whether the call has not ended."""
        return self.status in LIVE


# The plan


def planned(call: Call, script: Script, timeout: float) -> Call:
    """Return a new call with the plan that follows from its destination's script.

    Args:
        call: The call, with the time at which it is dialed, its instructions and its time limit.
        script: The behavior of the destination.
        timeout: Seconds of ringing after which the call ends as `no-answer`.
    """
    if script.end_as == "no-answer" or script.answer_after > timeout:
        return call._replace(end_at=call.ring_at + timeout, end_as="no-answer")
    reacts_at = call.ring_at + script.answer_after
    if script.end_as != "completed":
        return call._replace(end_at=reacts_at, end_as=script.end_as)
    answered = call._replace(answer_at=reacts_at, leaves_at=reacts_at + script.talk_seconds)
    return _rescheduled(answered, call.created)


def detection_result(detection: str, answered_by: AnsweredBy) -> str:
    """Return the result of answering-machine detection; `detection` is the parameter's value."""
    if not answered_by.startswith("machine"):
        return answered_by
    if detection == "Enable":
        return "machine_start"
    return answered_by if answered_by.startswith("machine_end") else "machine_end_beep"


def detection_seconds(result: str) -> float:
    """Return the seconds from the answer to a result that comes later."""
    return 10 if result.startswith("machine_end") else 3


def new_sid() -> str:
    """Return a random call SID."""
    return f"CA{secrets.token_hex(16)}"


def both_records(outbound: Call) -> tuple[Call, Call]:
    """Return both records of a call to a number of the account, the outbound one first."""
    inbound = outbound._replace(
        sid=new_sid(),
        direction="inbound",
        detects=None,
        detects_after=None,
        records=None,
        peer_sid=outbound.sid,
        parent_call_sid=None,
        url=None,
        twiml=None,
        fixed_price=None,
        callback_url=None,
    )
    return outbound._replace(peer_sid=inbound.sid), inbound


# Time


class CallEvent(NamedTuple):
    """An event of a call.

    Attributes:
        name: `initiated`, `ringing`, `answered`, `detected` or `completed`.
        call: The call right after the event; `call.updated` is the time of the event, and
            `call.reported` its number among those sent to the callback URL, from 0.
    """

    name: EventName
    call: Call


def due(call: Call) -> float | None:
    """Return when the call next changes by itself, None if it does not."""
    if call.status == "queued":
        return min(call.ring_at, call.end_at)
    if call.live:
        if _will_be_answered(call):
            return call.answer_at
        return min(_detected_at(call), call.end_at)
    if call.ended is None or call.duration is None or call.price is not None:
        return None
    return call.ended + PRICE_DELAY


def advanced(call: Call, now: float) -> tuple[Call, list[CallEvent]]:
    """Return the call at the time `now`, and the events until then."""
    events: list[CallEvent] = []
    while (at := due(call)) is not None and at <= now:
        call, names = _next(call, at)
        for name in names:
            event = CallEvent(name, call)
            events.append(event)
            if is_reported(event):
                call = call._replace(reported=call.reported + 1)
    return call, events


def is_reported(event: CallEvent) -> bool:
    """Return whether an event is sent to the callback URL."""
    call = event.call
    return call.callback_url is not None and event.name in call.callback_events.split()


def _next(call: Call, at: float) -> tuple[Call, tuple[EventName, ...]]:
    """Return the call after its next change, and the names of the events."""
    if not call.live:
        return call._replace(price=_price(call), updated=at), ()
    if call.status == "queued" and call.ring_at <= call.end_at:
        call = call._replace(status="ringing", started=floor(at), updated=at)
        # a call that fails immediately never rings
        return call, ("initiated", "ringing") if call.end_at > at else ("initiated",)
    if _will_be_answered(call):
        result = call.detects if call.detects_after is None else None
        call = call._replace(status="in-progress", answered_by=result, updated=at)
        return call, ("answered",)
    if _detected_at(call) < call.end_at:
        return call._replace(answered_by=call.detects, updated=at), ("detected",)
    duration = None if call.answer_at is None else int(at - call.answer_at + 0.5)
    # Twilio shows no end time for a call that was not completed
    ended = floor(at) if call.end_as == "completed" else None
    was_dialed = call.started is not None
    call = call._replace(status=call.end_as, ended=ended, duration=duration, updated=at)
    return call, ("completed",) if was_dialed else ()


def _will_be_answered(call: Call) -> bool:
    return call.status == "ringing" and call.answer_at is not None and call.answer_at <= call.end_at


def _detected_at(call: Call) -> float:
    """Return when a result of detection comes after the answer, infinity if it never does."""
    awaited = call.status == "in-progress" and call.answered_by is None
    if not awaited or call.answer_at is None or call.detects_after is None:
        return float("inf")
    return call.answer_at + call.detects_after


def _price(call: Call) -> float:
    if call.fixed_price is not None:
        return call.fixed_price
    return -PRICE_PER_MINUTE * ((max(call.duration or 0, 1) + 59) // 60)


# Updates


def held(call: Call, now: float) -> Call:
    """Return the call without a time at which the destination hangs up."""
    return _rescheduled(call._replace(leaves_at=float("inf")), now)


def answered(call: Call, now: float, talk_for: float | None) -> Call:
    """Return a ringing call as answered now. It ends after `talk_for` seconds, if given."""
    leaves_at = float("inf") if talk_for is None else now + talk_for
    call = call._replace(answer_at=now, leaves_at=leaves_at, end_as="completed")
    return _rescheduled(call, now)


def limited(call: Call, now: float, seconds: float) -> Call:
    """Return the call with a new limit for its seconds of talk."""
    return _rescheduled(call._replace(time_limit=seconds), now)


def _rescheduled(call: Call, now: float) -> Call:
    """Return the call with the earliest possible end that is not in the past."""
    call = call._replace(updated=now)
    if call.answer_at is None:
        return call
    end_at = call.end_at if call.leaves_at is None else call.leaves_at
    if call.time_limit is not None:
        end_at = min(end_at, call.answer_at + call.time_limit)
    return call._replace(end_at=max(now, end_at))


def ended(call: Call, now: float, status: Status) -> Call:
    """Return the call as ended now. Only `completed` ends an answered call."""
    if call.status != "in-progress":
        return call._replace(answer_at=None, end_at=now, end_as=status, updated=now)
    if status != "completed":
        return call
    return call._replace(end_at=now, end_as=status, updated=now)


def following(peer: Call, call: Call) -> Call:
    """Return the other record of the same conversation with the plan of `call`."""
    return peer._replace(
        answer_at=call.answer_at, end_at=call.end_at, end_as=call.end_as, updated=call.updated
    )
