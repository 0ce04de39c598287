"""Where the emulator takes the time from."""

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
"""Tells the time in seconds since the epoch (UTC). It must not run backwards."""


@dataclass
class ManualClock:
    """A clock that stands still until it is told to move, for tests.

    Attributes:
        now: The time in seconds since the epoch (UTC); by default 1 January 2030, 12:00.
    """

    now: float = 1_893_499_200.0

    def __call__(self) -> float:
        """The time, unchanged since the last `advance`."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let this much time pass at once."""
        self.now += seconds


@dataclass
class Adjusted:
    """A clock that can be put forward.

    Attributes:
        clock: The clock it goes by.
        ahead: How far it is ahead of that one, in seconds.
    """

    clock: Clock
    ahead: float = 0

    def __call__(self) -> float:
        """The time in seconds since the epoch."""
        return self.clock() + self.ahead

    def advance(self, seconds: float) -> None:
        """Let this much time pass at once."""
        self.ahead += seconds

    def catch_up(self, moment: float) -> None:
        """Be at this time, in seconds since the epoch, or later."""
        self.ahead += max(0.0, moment - self())

    def reset(self) -> None:
        """Show the time of the clock it goes by."""
        self.ahead = 0


def accelerated(speed: float) -> Clock:
    """A clock that starts at the real time and runs `speed` times as fast."""
    started, origin = time.time(), time.monotonic()

    def now() -> float:
        return started + (time.monotonic() - origin) * speed

    return now
