"""The limit on tool calls, for reads too."""

from calls_mcp.errors import PolicyDenied
from calls_mcp.guard.policy.rules import Caps
from calls_mcp.storage.rate_limits import Limit, RateLimiter
from calls_mcp.tools.catalog import Operation
from calls_mcp.tools.humanize import about, counted


async def count_tool_call(
    limiter: RateLimiter, caps: Caps, operation: Operation, principal: str
) -> None:
    """Count a tool call of a principal.

    Raises:
        PolicyDenied: The limit is reached.
    """
    name = "reads_per_minute" if operation.read_only else "changes_per_minute"
    amount = getattr(caps, name)
    if not amount:
        return
    exceeded = await limiter.hit([Limit(name, amount, 60, principal)])
    if exceeded is not None:
        reason = f"the limit of {counted(amount, 'tool call')} a minute is reached"
        hint = f"Wait {about(exceeded.retry_after)}, then call tools less often."
        raise PolicyDenied(f"caps.{name}", reason, hint)
