"""Fail fast while the API is down, and try it again after a pause."""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from random import uniform
from typing import Literal

from calls_mcp.errors import InvocationError, Rejected, Withheld
from calls_mcp.twilio.responses import resting

CircuitState = Literal["closed", "half_open", "open"]

_log = logging.getLogger(__name__)

_TOO_MANY = 5  # failures in a row
_FIRST_PAUSE = 2.0  # seconds; each is twice the one before
_DOUBLINGS = 4
_SPREAD = (0.5, 1.0)  # of a pause, so that replicas don't all try at the same moment


class Circuit:
    """Opens after some requests in a row failed, and closes when one is answered.

    While it is open, one request is let through after each pause. If that one hangs, the next
    goes through a pause later. `clock` is monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0  # in a row
        self._trials = 0  # since it opened
        self._next_trial: float | None = None

    @property
    def state(self) -> CircuitState:
        """Half open once a trial is due. Safe to read from any thread."""
        due = self._next_trial  # read once, since it changes meanwhile
        if due is None:
            return "closed"
        return "open" if due > self._clock() else "half_open"

    def check(self) -> None:
        """Return unless the circuit is open.

        Raises:
            Withheld: It is.
        """
        if self._next_trial is not None and self.state == "open":
            raise resting(self._failures, self._next_trial - self._clock())

    def check_again(self) -> None:
        """Return unless the circuit has opened since a request was let through.

        Raises:
            Withheld: It has.
        """
        if self._next_trial is not None:
            raise resting(self._failures, self._next_trial - self._clock())

    @contextmanager
    def guarding(self, *, is_pressing: bool) -> Generator[bool]:
        """Let a request through, and learn from how it ends; yields whether it is a trial.

        A pressing request always goes through, and its failure does not count.

        Raises:
            Withheld: The circuit is open.
        """
        is_trial = not is_pressing and self._admit()
        try:
            yield is_trial
        except Rejected:
            self._answered()
            raise
        except Withheld:
            raise
        except InvocationError:
            if not is_pressing:
                self._failed()
            raise
        else:
            self._answered()

    def _admit(self) -> bool:
        self.check()
        if self._next_trial is None:
            return False
        self._trials += 1
        self._rest()
        return True

    def _answered(self) -> None:
        if self._next_trial is not None:
            _log.warning("The API answers again.")
        self._failures, self._trials, self._next_trial = 0, 0, None

    def _failed(self) -> None:
        self._failures += 1
        if self._failures == _TOO_MANY:
            _log.warning("The API has failed %d times in a row.", self._failures)
            self._rest()

    def _rest(self) -> None:
        pause = _FIRST_PAUSE * 2 ** min(self._trials, _DOUBLINGS)
        self._next_trial = self._clock() + pause * uniform(*_SPREAD)  # noqa: S311  no secret
