"""Past calls, so that a new account does not start empty."""

from collections.abc import Iterator
from random import Random

from calls_mcp.emulator.call_lifecycle import (
    DEFAULT_TIMEOUT,
    PRICE_DELAY,
    Call,
    Direction,
    planned,
)
from calls_mcp.emulator.scenario import EndStatus, Script

HOUR = 3600
WEEK = 7 * 86_400
LONGEST_TALK = 1200
QUEUE_SECONDS = 1

OWN_NUMBER = "+15005550100"
AREA_CODES = ("202", "312", "415", "617", "713")
END_WEIGHTS: dict[EndStatus, int] = {"completed": 70, "no-answer": 14, "busy": 9, "failed": 7}
DIRECTION_WEIGHTS: dict[Direction, int] = {"outbound-api": 65, "inbound": 35}


def past_calls(seed: int, calls: int, now: float) -> Iterator[Call]:
    """Return finished calls of the past week. The same arguments and hour give the same calls.

    Add them before placing a call, because the list is in order of arrival.

    Args:
        seed: The seed of the random choices.
        calls: The number of calls.
        now: The present, in seconds since the epoch. All calls ended before it.
    """
    random = Random(seed)  # noqa: S311 - reproducible, not secret
    latest = now // HOUR * HOUR - LONGEST_TALK - DEFAULT_TIMEOUT - PRICE_DELAY - QUEUE_SECONDS
    times = sorted(latest - random.uniform(0, WEEK) for _ in range(calls))
    return (_past_call(random, created) for created in times)


def _past_call(random: Random, created: float) -> Call:
    (direction,) = random.choices(list(DIRECTION_WEIGHTS), list(DIRECTION_WEIGHTS.values()))
    (end_as,) = random.choices(list(END_WEIGHTS), list(END_WEIGHTS.values()))
    other_number = f"+1{random.choice(AREA_CODES)}55501{random.randrange(100):02}"
    outbound = direction == "outbound-api"
    ring_seconds = random.uniform(2, 25) if end_as in {"completed", "busy"} else 0
    call = Call(
        sid=f"CA{random.getrandbits(128):032x}",
        to=other_number if outbound else OWN_NUMBER,
        from_=OWN_NUMBER if outbound else other_number,
        direction=direction,
        status="queued",
        created=created,
        updated=created,
        ring_at=created + (QUEUE_SECONDS if outbound else 0),
    )
    # many talks are short, few are long
    talk = min(random.expovariate(1 / 150), LONGEST_TALK) if end_as == "completed" else 0
    return planned(call, Script(end_as, ring_seconds, talk), DEFAULT_TIMEOUT)
