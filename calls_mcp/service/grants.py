"""What a verified token grants: to whom, what (scopes), until when, and with whose account."""

import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Self, get_args

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from pydantic import PrivateAttr

from calls_mcp.tools.catalog import Operation

if TYPE_CHECKING:  # stdio needs neither, and starts without them
    from calls_mcp.guard.policy import Policy
    from calls_mcp.settings import Access

Scope = Literal["calls:read", "calls:place", "calls:change", "calls:delete", "calls:approve"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
LEAST: Scope = "calls:read"
"""The scope that a first challenge asks for. A tool that needs more asks for more."""
APPROVE: Scope = "calls:approve"
"""The operator's scope for the console. It permits no tool and is not advertised to clients."""


@dataclass(frozen=True, slots=True)
class Own:
    """What a principal has of their own in place of the server's: account, policy, or both."""

    account_sid: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    policy: "Policy | None" = None

    def access(self, shared: "Access") -> "Access":
        """`shared` with the principal's own account, if they have one."""
        if not self.account_sid:
            return shared
        return replace(
            shared, account_sid=self.account_sid, username=self.username, password=self.password
        )


class Grant(AccessToken):
    """The SDK's access token, without the token itself: nobody behind the gate needs it."""

    token: str = ""
    _own: Own | None = PrivateAttr(None)
    _renew: "Renew | None" = PrivateAttr(None)

    @property
    def principal(self) -> str:
        """Whom the token stands for."""
        return self.subject or self.client_id

    @property
    def ends_at(self) -> float:
        """The epoch time from which it is good no more."""
        return math.inf if self.expires_at is None else self.expires_at

    @property
    def own(self) -> Own | None:
        """What its principal has of their own."""
        return self._own

    def held(self, own: Own | None, renew: "Renew") -> Self:
        """This grant, to a principal who has `own`; what its token grants later, `renew` tells."""
        self._own, self._renew = own, renew
        return self

    async def renewed(self) -> "Grant | None":
        """What the token grants now, to a principal who has what they have now; None if nothing."""
        return await self._renew() if self._renew else self


Renew = Callable[[], Awaitable[Grant | None]]


def grant() -> Grant | None:
    """What the request's token grants; None where nobody is asked for one."""
    token = get_access_token()
    return token if isinstance(token, Grant) else None


def principal() -> str | None:
    """Whom the request's token stands for; None where nobody is asked for one."""
    token = get_access_token()
    return (token.subject or token.client_id) if token else None


def own() -> Own | None:
    """What the request's principal has of their own."""
    held = grant()
    return held.own if held else None


def allows(operation: Operation, token: AccessToken | None = None) -> bool:
    """Whether a token, or else the request's, is enough for this; where none is needed, all is."""
    token = token or get_access_token()
    return token is None or scope_of(operation) in token.scopes


def scope_of(operation: Operation) -> str:
    """The scope that this operation needs."""
    return f"calls:{operation.effect}"


def is_operators(scopes: Collection[str]) -> bool:
    """Whether these let an operator in: `APPROVE`, without the scope of any tool.

    Whoever holds a token for tools may be a model, which must not decide about what it asks for.
    """
    return APPROVE in scopes and not any(s in SCOPES for s in scopes if s != APPROVE)
