"""What a caller may do: a scope for each effect that a tool can have."""

from typing import Literal, get_args

from calls_mcp.catalog import Operation

Scope = Literal["calls:read", "calls:place", "calls:change", "calls:delete"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
LEAST: Scope = "calls:read"
"""What a client is told to ask for first; more is asked for when a tool needs it."""


def scope_of(operation: Operation) -> str:
    """The scope that this operation needs."""
    return f"calls:{operation.effect}"
