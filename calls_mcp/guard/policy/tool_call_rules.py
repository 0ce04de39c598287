"""The rules for every tool call, reads too: an allowed account, and a rate."""

from collections.abc import Iterator

from calls_mcp.errors import PolicyDenied
from calls_mcp.guard.policy.rules import Caps, Objection, Policy
from calls_mcp.storage.rate_limits import Limit, RateLimiter
from calls_mcp.tools.catalog import Operation
from calls_mcp.tools.humanize import about, counted


def judge_account(policy: Policy, account_sid: str) -> None:
    """Check that the policy allows the account, also for reads.

    Raises:
        PolicyDenied: The account is not allowed.
    """
    for objection in object_to_account(policy, account_sid):
        raise PolicyDenied(objection.rule, objection.reason, objection.hint)


def object_to_account(policy: Policy, account_sid: str) -> Iterator[Objection]:
    """Yield why the policy does not allow an account."""
    allowed = policy.accounts.allow
    if allowed and account_sid not in allowed:
        hint = "Leave account_sid out, or ask the operator to allow this account."
        yield Objection("accounts.allow", "this account is not allowed", hint)


async def count_tool_call(
    limiter: RateLimiter, caps: Caps, operation: Operation, principal: str
) -> None:
    """Count a tool call of a principal.

    Raises:
        PolicyDenied: The limit is reached.
    """
    kind = "read" if operation.read_only else "change"
    name = f"{kind}s_per_minute"
    amount = getattr(caps, name)
    if not amount:
        return
    exceeded = await limiter.hit([Limit(name, amount, 60, principal)])
    if exceeded is not None:
        reason = f"the limit of {counted(amount, kind)} a minute is reached"
        hint = f"Wait {about(exceeded.retry_after)}, then call tools less often."
        raise PolicyDenied(f"caps.{name}", reason, hint)
