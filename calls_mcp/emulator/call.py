"""A telephone call as the emulator keeps it."""

from dataclasses import dataclass
from typing import Literal

Status = Literal[
    "queued", "ringing", "in-progress", "completed", "busy", "no-answer", "failed", "canceled"
]
Direction = Literal["inbound", "outbound-api"]

LIVE: frozenset[Status] = frozenset({"queued", "ringing", "in-progress"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One record of the list of calls, with the future that is planned for it.

    Times are in seconds since the epoch. `ring_at`, `answer_at`, `end_at`, `end_as` and
    `detects` are the plan; the store turns them into `status`, `started`, `ended`,
    `duration`, `answered_by` and `price` once their time has come.

    Attributes:
        sid: `CA` and 32 hexadecimal digits.
        to: Who is called.
        from_: Who calls.
        direction: Whether the account placed or received it.
        status: Where the call is now.
        created: When the request came in.
        updated: When the record last changed.
        ring_at: When it is dialled.
        answer_at: When it is answered, or None if it never is.
        end_at: When it is over.
        end_as: The final status it is to end with.
        leaves_at: When whoever answers it would hang up, None if that is not known.
        hangs_up_at: When its instructions hang up, None if they don't.
        time_limit: How many seconds of talk it may have, None for any number.
        detects: What answering-machine detection finds at the answer, if it was asked for.
        started: When it was dialled, None before.
        ended: When it ended, None before.
        duration: Whole seconds of talk, None if there was none or it still goes on.
        answered_by: What detection found, None before the answer.
        price: What it cost, negative, in US dollars; None until it is known.
        price_at: When the price becomes known, None while no price is to be expected.
        queue_ms: How long it waits before it is dialled, in milliseconds.
        peer_sid: The other record of a call between two numbers of the account.
        parent_call_sid: The call that spawned it.
        caller_name: What a stranger says their name is.
        forwarded_from: The number a stranger's call came by.
        url: Where its instructions are fetched.
        twiml: Its instructions, if they were sent along.
        fixed_price: What it is to cost, if its destination has a price of its own.
        callback_url: Where its progress is told, None if nowhere.
        callback_method: `GET` or `POST`.
        callback_events: Which events are told there, separated by spaces.
    """

    sid: str
    to: str
    from_: str
    direction: Direction
    status: Status
    created: float
    updated: float
    ring_at: float
    answer_at: float | None
    end_at: float
    end_as: Status
    leaves_at: float | None = None
    hangs_up_at: float | None = None
    time_limit: float | None = None
    detects: str | None = None
    started: float | None = None
    ended: float | None = None
    duration: int | None = None
    answered_by: str | None = None
    price: float | None = None
    price_at: float | None = None
    queue_ms: int = 0
    peer_sid: str | None = None
    parent_call_sid: str | None = None
    caller_name: str | None = None
    forwarded_from: str | None = None
    url: str | None = None
    twiml: str | None = None
    fixed_price: float | None = None
    callback_url: str | None = None
    callback_method: str = "POST"
    callback_events: str = "completed"

    @property
    def live(self) -> bool:
        """Whether the call can still change by itself."""
        return self.status in LIVE
