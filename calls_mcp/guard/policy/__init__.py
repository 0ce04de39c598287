"""The operator's rules: `config/policy.toml`, or a file in its place, and what follows from them.

`judge` holds an invocation to them before anybody is asked to confirm it.
"""

from calls_mcp.guard.policy.destinations import canonical, matches_any
from calls_mcp.guard.policy.evaluation import Judgement, action_of, judge, judge_account, parties
from calls_mcp.guard.policy.explanation import explain, summary
from calls_mcp.guard.policy.rules import Caps, Counts, Policy, Requirement, itemize, load_policy

__all__ = [
    "Caps",
    "Counts",
    "Judgement",
    "Policy",
    "Requirement",
    "action_of",
    "canonical",
    "explain",
    "itemize",
    "judge",
    "judge_account",
    "load_policy",
    "matches_any",
    "parties",
    "summary",
]
