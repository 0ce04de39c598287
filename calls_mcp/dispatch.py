"""A request on its way to the API: by when it must be answered, and what is known of it."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum

import anyio

from calls_mcp.errors import InvocationError, Withheld
from calls_mcp.wire import Request


class Lane(StrEnum):
    """Requests that may stall together; each lane has its own connections."""

    FETCHES = "fetches"
    LISTS = "lists"
    NEW_CALLS = "new calls"
    CHANGES = "changes"
    LOOKS = "looks at what became of a change"


def lane_of(request: Request) -> Lane:
    """The lane of a request that is no look."""
    if request.effect == "place":
        return Lane.NEW_CALLS
    if request.effect != "read":
        return Lane.CHANGES
    return Lane.FETCHES if request.sid else Lane.LISTS


@dataclass(slots=True, eq=False)
class Dispatch:
    """A request on its way, by anyio's clock; notes whether it may have left this machine."""

    request: Request
    lane: Lane
    begun: float
    until: float
    has_left: bool = False
    is_admitted: bool = False
    is_probe: bool = False
    _waits: set[anyio.CancelScope] = field(default_factory=set[anyio.CancelScope])

    @property
    def is_look(self) -> bool:
        """Whether it is to find out what became of a change."""
        return self.lane is Lane.LOOKS

    @property
    def is_pressing(self) -> bool:
        """Whether it is tried even if the API keeps failing."""
        return self.is_look or self.request.is_pressing

    @property
    def lateness(self) -> str:
        """What is said if there is no answer in time."""
        return f"no answer within {round(max(self.until - self.begun, 0), 1):g} s"

    @property
    def left(self) -> float:
        """Seconds until it must be answered."""
        return self.until - anyio.current_time()

    def end_by(self, moment: float) -> None:
        """Wait no longer than until `moment`."""
        self.until = min(self.until, moment)
        for scope in self._waits:
            scope.deadline = min(scope.deadline, moment)

    @contextmanager
    def in_time(self, share: float = 1) -> Generator[None]:
        """Wait in here, no longer than for a share of the time that is left.

        Raises:
            TimeoutError: It took longer.
        """
        # Not asyncio's, which doesn't mix with anyio's.
        with anyio.fail_after(max(0.0, self.left) * share) as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)

    async def pause(self, seconds: float) -> None:
        """Wait before another attempt."""
        with suppress(TimeoutError), self.in_time():
            await anyio.sleep(seconds)

    def is_worth_another(self, error: BaseException) -> bool:
        """Whether what failed so is to be tried again."""
        is_vain = isinstance(error, Withheld) or self.is_probe
        return isinstance(error, InvocationError) and error.retryable and not is_vain
