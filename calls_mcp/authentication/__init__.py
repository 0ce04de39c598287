"""Who may come in over HTTP, and what they may do. On stdio nobody is asked.

The modules `verifier`, `tokens` and `oauth` are not imported here, for on stdio nobody needs them.
Behind them, `principal()` names whoever the request in hand is from.
"""

from calls_mcp.authentication.grant import Grant, Own, allows, grant, own, principal
from calls_mcp.authentication.scopes import APPROVE, SCOPES, Scope, is_operators, scope_of

__all__ = [
    "APPROVE",
    "SCOPES",
    "Grant",
    "Own",
    "Scope",
    "allows",
    "grant",
    "is_operators",
    "own",
    "principal",
    "scope_of",
]
