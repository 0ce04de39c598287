"""Fail fast while the API is down, and try again after a pause."""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import ceil
from random import uniform
from typing import Literal

from calls_mcp.errors import InvocationError, NotAttempted, Rejected

CircuitState = Literal["closed", "half_open", "open"]

_log = logging.getLogger(__name__)

_FAILURE_THRESHOLD = 5  # failures in a row
_FIRST_PAUSE = 2.0  # seconds; each is twice the one before
_DOUBLINGS = 4
_SPREAD = (0.5, 1.0)  # of a pause, so that replicas don't all try at the same moment


class CircuitBreaker:
    """Opens after several failures in a row, and closes after a success.

    While it is open, one trial request is let through after each pause, even if the last trial
    has no response yet. `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0  # in a row
        self._trials = 0  # since it opened
        self._next_trial: float | None = None

    @property
    def state(self) -> CircuitState:
        """The state; half open when a trial is due. Safe to read from any thread."""
        due = self._next_trial  # read once, because another thread may change it
        if due is None:
            return "closed"
        return "open" if due > self._clock() else "half_open"

    def require_not_open(self) -> None:
        """Raise if the circuit is open.

        Raises:
            NotAttempted: The circuit is open.
        """
        if self._next_trial is not None and self.state == "open":
            raise _open(self._failures, self._next_trial - self._clock())

    def require_closed(self) -> None:
        """Raise if the circuit is not closed.

        Raises:
            NotAttempted: The circuit is open or half open.
        """
        if self._next_trial is not None:
            raise _open(self._failures, self._next_trial - self._clock())

    @contextmanager
    def guard(self, *, is_urgent: bool) -> Generator[bool]:
        """Let a request through and count its result. Yield whether it is a trial.

        An urgent request is always let through, and its failure does not count.

        Raises:
            NotAttempted: The circuit is open.
        """
        is_trial = not is_urgent and self._admit()
        try:
            yield is_trial
        except Rejected:
            self._record_success()
            raise
        except NotAttempted:
            raise
        except InvocationError:
            if not is_urgent:
                self._record_failure()
            raise
        else:
            self._record_success()

    def _admit(self) -> bool:
        self.require_not_open()
        if self._next_trial is None:
            return False
        self._trials += 1
        self._schedule_trial()
        return True

    def _record_success(self) -> None:
        if self._next_trial is not None:
            _log.warning("The API responds again.")
        self._failures, self._trials, self._next_trial = 0, 0, None

    def _record_failure(self) -> None:
        self._failures += 1
        if self._failures == _FAILURE_THRESHOLD:
            _log.warning("The API has failed %d times in a row.", self._failures)
            self._schedule_trial()

    def _schedule_trial(self) -> None:
        pause = _FIRST_PAUSE * 2 ** min(self._trials, _DOUBLINGS)
        self._next_trial = self._clock() + pause * uniform(*_SPREAD)  # noqa: S311  no secret


def _open(failures: int, wait: float) -> NotAttempted:
    """Return the error while the circuit is open, for another `wait` seconds."""
    seconds = max(1, ceil(wait))
    return NotAttempted(
        f"Nothing was sent: the API has failed {failures} times in a row; "
        f"the next attempt is in {seconds} s.",
        f"Wait {seconds} s, then try again. If this continues, the operator must check the network "
        "and the API's status.",
        retry_after=seconds,
    )
