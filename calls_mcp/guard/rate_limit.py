"""How often a principal may invoke anything at all."""

from calls_mcp.errors import PolicyDenied
from calls_mcp.guard.policy import Caps
from calls_mcp.storage import Limit
from calls_mcp.storage.rate_limiter import RateLimiter
from calls_mcp.tools.catalog import Operation

_HINT = "Wait {:.0f} s; then go more slowly, or ask for more at once."


class Throttle:
    """Counts invocations against the policy's caps."""

    def __init__(self, caps: Caps, rates: RateLimiter) -> None:
        self._amounts = {True: caps.reads_per_minute, False: caps.changes_per_minute}
        self._rates = rates

    async def admit(self, operation: Operation, principal: str) -> None:
        """Count an invocation.

        Raises:
            PolicyDenied: There were too many in the last minute.
        """
        amount = self._amounts[operation.read_only]
        if not amount:
            return
        name = "reads_per_minute" if operation.read_only else "changes_per_minute"
        exhausted = await self._rates.hit([Limit(name, amount, 60, principal)])
        if exhausted is not None:
            reason = "so many tool calls were made within a minute"
            raise PolicyDenied(f"caps.{name}", reason, _HINT.format(exhausted.retry_after))
