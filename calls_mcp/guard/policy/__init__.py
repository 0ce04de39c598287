"""The operator's policy: `config/policy.toml`, overridden by a file of the operator.

`judge` applies it to an invocation before anyone is asked to confirm.
"""

from calls_mcp.guard.policy.destinations import (
    allows_caller,
    canonical,
    is_premium_rate,
    numbers_of,
    party,
)
from calls_mcp.guard.policy.evaluation import (
    Judgement,
    action_of,
    judge,
    judge_account,
    parties,
    strictest,
)
from calls_mcp.guard.policy.explanation import explain, explain_by_topic, requirements, summary
from calls_mcp.guard.policy.hours import CountryHours, Hours, Span
from calls_mcp.guard.policy.rules import (
    Caps,
    Counts,
    Objection,
    Policy,
    Requirement,
    itemize,
    load_policy,
)
from calls_mcp.guard.policy.twiml import records

__all__ = [
    "Caps",
    "CountryHours",
    "Counts",
    "Hours",
    "Judgement",
    "Objection",
    "Policy",
    "Requirement",
    "Span",
    "action_of",
    "allows_caller",
    "canonical",
    "explain",
    "explain_by_topic",
    "is_premium_rate",
    "itemize",
    "judge",
    "judge_account",
    "load_policy",
    "numbers_of",
    "parties",
    "party",
    "records",
    "requirements",
    "strictest",
    "summary",
]
