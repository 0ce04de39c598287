"""Who may come in over HTTP, and what they may do. On stdio nobody is asked.

`gate = open_gate(settings)`, of the module `gate`, is the whole of it: `gate.guard(app)` goes
around what reads requests, `gate.permit(app)` around the MCP app within, and `gate.routes`, which
anybody may see, beside it at the root. The module is not imported here, for on stdio nobody needs
it. Behind it, `principal()` names whoever the request in hand is from.
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
