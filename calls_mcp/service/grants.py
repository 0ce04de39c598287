"""What a verified token permits: its principal, scopes, expiry and overrides."""

import math
import unicodedata
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Self, get_args

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from pydantic import PrivateAttr

from calls_mcp.tools.catalog import Operation

if TYPE_CHECKING:  # stdio starts faster without these
    from calls_mcp.guard.policy.rules import Policy
    from calls_mcp.settings import Access

Scope = Literal["calls:read", "calls:place", "calls:change", "calls:delete", "calls:approve"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
MINIMUM_SCOPE: Scope = "calls:read"
"""The scope that the response to a request without a token asks for. Some tools need another."""
APPROVE: Scope = "calls:approve"
"""The operator's scope for the console. It permits no tool and is not advertised to clients."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """A principal's own account, policy or both, used instead of the server's."""

    account_sid: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    policy: "Policy | None" = None

    def access(self, shared: "Access") -> "Access":
        """Return `shared`, with the principal's own account if they have one."""
        if not self.account_sid:
            return shared
        return replace(
            shared, account_sid=self.account_sid, username=self.username, password=self.password
        )


class Grant(AccessToken):
    """The SDK's access token without the token itself, which nothing needs after verification."""

    token: str = ""
    _overrides: Overrides | None = PrivateAttr(None)
    _renew: "Renew | None" = PrivateAttr(None)

    @property
    def principal(self) -> str:
        """The name of the token's principal."""
        return self.subject or self.client_id

    @property
    def expiry(self) -> float:
        """The epoch time at which the token expires; infinite if it does not."""
        return math.inf if self.expires_at is None else self.expires_at

    @property
    def overrides(self) -> Overrides | None:
        """The principal's overrides."""
        return self._overrides

    def with_overrides(self, overrides: Overrides | None, renew: "Renew") -> Self:
        """Set the principal's overrides, and the function that renews the grant. Return itself."""
        self._overrides, self._renew = overrides, renew
        return self

    async def renewed(self) -> "Grant | None":
        """Return the token's grant as of now, or None if it is no longer valid."""
        return await self._renew() if self._renew else self


def normalized(name: str) -> str:
    """Return a name normalized in case, width and spaces, for comparison."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def is_reserved(name: str) -> bool:
    """Return whether a principal's name could be taken for the console or its operator."""
    return normalized(name).partition(":")[0] == "console"


Renew = Callable[[], Awaitable[Grant | None]]


async def renewed_for(operation: Operation, grant: Grant, now: float) -> Grant | None:
    """Return a grant as of `now` (epoch seconds); None if it no longer permits an operation."""
    renewed = await grant.renewed()
    if renewed is None or renewed.principal != grant.principal or renewed.expiry <= now:
        return None
    return renewed if allows(operation, renewed) else None


def current_grant() -> Grant | None:
    """Return the grant of the current request; None where no token is required."""
    token = get_access_token()
    return token if isinstance(token, Grant) else None


def current_principal() -> str | None:
    """Return the principal of the current request; None where no token is required."""
    token = get_access_token()
    return (token.subject or token.client_id) if token else None


def current_overrides() -> Overrides | None:
    """Return the overrides of the current request's principal."""
    grant = current_grant()
    return grant.overrides if grant else None


def allows(operation: Operation, token: AccessToken | None = None) -> bool:
    """Return whether a token (default: the request's) permits an operation.

    Everything is permitted where no token is required.
    """
    token = token or get_access_token()
    return token is None or required_scope(operation) in token.scopes


def required_scope(operation: Operation) -> str:
    """Return the scope that an operation needs."""
    return f"calls:{operation.effect}"


def is_operator(scopes: Collection[str]) -> bool:
    """Return whether the scopes are an operator's: `APPROVE` without any scope for tools.

    The holder of a token for tools may be a model, which must not approve its own requests.
    """
    return APPROVE in scopes and not any(s in SCOPES for s in scopes if s != APPROVE)
