"""Past calls for an account that would otherwise look new."""

from collections.abc import Iterator
from random import Random
from typing import TypeVar

from calls_mcp.emulator.call_lifecycle import (
    DEFAULT_TIMEOUT,
    PRICE_DELAY,
    Call,
    Direction,
    Status,
)
from calls_mcp.emulator.call_store import CallStore

Choice = TypeVar("Choice", Status, Direction)

HOUR = 3600
SECONDS = 7 * 86_400
LONGEST = 1200
QUEUE_SECONDS = 1

OURS = "+15005550100"
AREAS = ("202", "312", "415", "617", "713")
ENDS: dict[Status, int] = {"completed": 70, "no-answer": 14, "busy": 9, "failed": 7}
DIRECTIONS: dict[Direction, int] = {"outbound-api": 65, "inbound": 35}


def seed_history(store: CallStore, seed: int, calls: int, now: float) -> None:
    """Append finished calls of the past week, as `past_calls` returns them.

    The list is in order of arrival, so call this before the first call of the present.
    """
    store.add(*past_calls(seed, calls, now))


def past_calls(seed: int, calls: int, now: float) -> Iterator[Call]:
    """Yield finished calls of the past week; the same seed, number and hour give the same calls.

    Args:
        seed: Which of the possible histories.
        calls: How many.
        now: The time before which they ended, in seconds since the epoch.
    """
    random = Random(seed)  # noqa: S311 - reproducible, not secret
    latest = now // HOUR * HOUR - LONGEST - DEFAULT_TIMEOUT - PRICE_DELAY - QUEUE_SECONDS
    times = sorted(latest - random.uniform(0, SECONDS) for _ in range(calls))
    return (_past_call(random, created) for created in times)


def _past_call(random: Random, created: float) -> Call:
    direction = _weighted(random, DIRECTIONS)
    end_as = _weighted(random, ENDS)
    stranger = f"+1{random.choice(AREAS)}55501{random.randrange(100):02}"
    outbound = direction == "outbound-api"
    waits = QUEUE_SECONDS if outbound else 0
    ring_at = created + waits
    reacts_at = ring_at + _ring_seconds(random, end_as)
    answer_at = reacts_at if end_as == "completed" else None
    return Call(
        sid=f"CA{random.getrandbits(128):032x}",
        to=stranger if outbound else OURS,
        from_=OURS if outbound else stranger,
        direction=direction,
        status="queued",
        created=created,
        updated=created,
        ring_at=ring_at,
        answer_at=answer_at,
        end_at=reacts_at + (_talk_seconds(random) if answer_at else 0),
        end_as=end_as,
    )


def _weighted(random: Random, weights: dict[Choice, int]) -> Choice:
    return random.choices(list(weights), list(weights.values()))[0]


def _ring_seconds(random: Random, end_as: Status) -> float:
    if end_as == "failed":
        return 0
    return DEFAULT_TIMEOUT if end_as == "no-answer" else random.uniform(2, 25)


def _talk_seconds(random: Random) -> float:
    """Many short talks, few long ones."""
    return min(random.expovariate(1 / 150), LONGEST)
