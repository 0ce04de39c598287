"""How often a principal may invoke anything at all, in this process."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from calls_mcp.catalog import Operation
from calls_mcp.policy import Caps, PolicyDenied

if TYPE_CHECKING:
    from calls_mcp.store.counters import Counters

_HINT = "Wait {:.0f} seconds; then go more slowly, or ask for more at once."


class Throttle:
    """Counts invocations against the policy's caps; `clock` gives the time in epoch seconds."""

    def __init__(self, caps: Caps, clock: Callable[[], float]) -> None:
        self._amounts = {True: caps.reads_per_minute, False: caps.changes_per_minute}
        self._clock = clock
        self._counters: Counters | None = None

    async def admit(self, operation: Operation, principal: str) -> None:
        """Count an invocation.

        Raises:
            PolicyDenied: There were too many in the last minute.
        """
        amount = self._amounts[operation.read_only]
        if not amount:
            return
        from calls_mcp.store.counters import Limit  # noqa: PLC0415

        name = "reads_per_minute" if operation.read_only else "changes_per_minute"
        exhausted = await self._counting().hit([Limit(name, amount, 60, principal)])
        if exhausted is not None:
            reason = "so many tool calls were made within a minute"
            raise PolicyDenied(f"caps.{name}", reason, _HINT.format(exhausted.wait))

    def _counting(self) -> "Counters":
        from calls_mcp.store.memory_counters import MemoryCounters  # noqa: PLC0415  # 80 ms

        self._counters = self._counters or MemoryCounters(self._clock)
        return self._counters
