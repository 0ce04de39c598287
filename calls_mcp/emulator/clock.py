"""The clocks of an emulator, and the API's format of times."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

Clock = Callable[[], float]
"""Returns the time in seconds since the epoch (UTC). It must not run backwards."""


@dataclass
class ManualClock:
    """A clock for tests that only moves when it is advanced.

    Attributes:
        now: The time in seconds since the epoch (UTC); by default 1 January 2030, 12:00.
    """

    now: float = 1_893_499_200.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds


@dataclass
class AdjustableClock:
    """A clock that can be moved ahead of another.

    Attributes:
        clock: The other clock.
        ahead: The difference in seconds.
    """

    clock: Clock
    ahead: float = 0

    def __call__(self) -> float:
        """Return the time in seconds since the epoch."""
        return self.clock() + self.ahead

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.ahead += seconds

    def catch_up(self, moment: float) -> None:
        """Advance the clock to this time (seconds since the epoch) if it is behind."""
        self.ahead += max(0.0, moment - self())

    def reset(self) -> None:
        """Return to the time of the other clock."""
        self.ahead = 0


def accelerated(speed: float) -> Clock:
    """Return a clock that starts at the real time and runs `speed` times as fast."""
    started, origin = time.time(), time.monotonic()

    def now() -> float:
        return started + (time.monotonic() - origin) * speed

    return now


def rfc2822(when: float) -> str:
    """Format a time (seconds since the epoch) like the API does, in UTC."""
    return format_datetime(datetime.fromtimestamp(when, UTC))
