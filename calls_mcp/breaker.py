"""A circuit breaker: an API that keeps failing is left alone for a while, then tried once."""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from random import uniform
from typing import Literal

from calls_mcp.errors import InvocationError, Rejected, Withheld
from calls_mcp.failures import resting

BreakerState = Literal["closed", "half_open", "open"]

_log = logging.getLogger(__name__)

_TOO_MANY = 5  # failures in a row
_FIRST_PAUSE = 2.0  # seconds; each is twice the one before
_DOUBLINGS = 4
_SPREAD = (0.5, 1.0)  # of a pause, lest all replicas try at once


class Breaker:
    """Open after some requests failed in a row, until one is answered; `clock` is monotonic (s).

    While it is open, one read is let through after each pause: the probe. A probe that hangs
    holds nobody up for longer than the next pause.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0  # in a row
        self._pauses = 0  # since it opened
        self._next_probe: float | None = None
        self._era = 0  # counts openings and closings

    @property
    def is_open(self) -> bool:
        """Whether the API is taken to be failing."""
        return self._next_probe is not None

    @property
    def state(self) -> BreakerState:
        """It is half open as long as a probe is due. May be asked for in any thread."""
        due = self._next_probe  # looked at once, since it changes meanwhile
        if due is None:
            return "closed"
        return "open" if due > self._clock() else "half_open"

    @property
    def is_resting(self) -> bool:
        """Whether nothing, not even a probe, is let through now."""
        return self._wait() > 0

    def check(self) -> None:
        """Do nothing, unless it is resting.

        Raises:
            Withheld: It is.
        """
        if self.is_resting:
            raise self._refusal()

    def admit(self, *, may_probe: bool) -> None:
        """Let an attempt through: if it is open, only one that may probe, after the pause.

        Raises:
            Withheld: It is not let through.
        """
        if not self.is_open:
            return
        if self.is_resting or not may_probe:
            raise self._refusal()
        self._pauses += 1
        self._rest()

    @contextmanager
    def observed(self, *, counts: bool = True) -> Generator[None]:
        """Learn from how a request ends, with its retries. A cancelled one tells nothing.

        Its failure is one only if it `counts`; what was held back here is none in any case.
        """
        era = self._era
        try:
            yield
        except Rejected:
            self._answered()
            raise
        except Withheld:
            raise
        except InvocationError:
            if counts:
                self._failed(era)
            raise
        else:
            self._answered()

    def _answered(self) -> None:
        if self.is_open:
            _log.warning("The API answers again.")
            self._era += 1
        self._failures, self._pauses, self._next_probe = 0, 0, None

    def _failed(self, era: int) -> None:
        if era != self._era:  # what began before the API was known to fail, or to be well again
            return
        self._failures += 1
        if self._failures < _TOO_MANY:
            return
        if not self.is_open:
            _log.warning("The API has failed %d times in a row.", self._failures)
            self._era += 1
        self._rest()

    def _rest(self) -> None:
        pause = _FIRST_PAUSE * 2 ** min(self._pauses, _DOUBLINGS)
        self._next_probe = self._clock() + pause * uniform(*_SPREAD)  # noqa: S311  no secret

    def _wait(self) -> float:
        return 0.0 if self._next_probe is None else max(0.0, self._next_probe - self._clock())

    def _refusal(self) -> InvocationError:
        return resting(self._failures, self._wait())
