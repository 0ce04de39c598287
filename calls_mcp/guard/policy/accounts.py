"""Which accounts the policy allows, for reads too."""

from collections.abc import Iterator

from calls_mcp.errors import PolicyDenied
from calls_mcp.guard.policy.rules import Objection, Policy


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
