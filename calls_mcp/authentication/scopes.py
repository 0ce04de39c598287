"""What a caller may do: a scope for each effect that a tool can have, and the operator's."""

from collections.abc import Collection
from typing import Literal, get_args

from calls_mcp.catalog import Operation

Scope = Literal["calls:read", "calls:place", "calls:change", "calls:delete", "calls:approve"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
LEAST: Scope = "calls:read"
"""What a client is told to ask for first; more is asked for when a tool needs it."""
APPROVE: Scope = "calls:approve"
"""What lets an operator into the console. It permits no tool, and no client is told of it."""


def scope_of(operation: Operation) -> str:
    """The scope that this operation needs."""
    return f"calls:{operation.effect}"


def is_operators(scopes: Collection[str]) -> bool:
    """Whether these let an operator in: `APPROVE`, without the scope of any tool.

    Whoever holds a token for tools may be a model, which must not decide about what it asks for.
    """
    return APPROVE in scopes and not any(s in SCOPES for s in scopes if s != APPROVE)
