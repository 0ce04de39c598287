"""What a verified token grants: to whom, what, until when, and with whose account."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from pydantic import PrivateAttr

from calls_mcp.authentication.scopes import scope_of
from calls_mcp.catalog import Operation

if TYPE_CHECKING:  # stdio needs neither, and starts without them
    from calls_mcp.policy import Policy
    from calls_mcp.settings import Access


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

    @property
    def own(self) -> Own | None:
        """What its principal has of their own."""
        return self._own

    def with_own(self, own: Own | None) -> Self:
        """This grant, to a principal who has `own`."""
        self._own = own
        return self


def principal() -> str | None:
    """Whom the request's token stands for; None where nobody is asked for one."""
    token = get_access_token()
    return (token.subject or token.client_id) if token else None


def own() -> Own | None:
    """What the request's principal has of their own."""
    token = get_access_token()
    return token.own if isinstance(token, Grant) else None


def allows(operation: Operation) -> bool:
    """Whether the request's token is enough for this; where nobody is asked for one, all is."""
    token = get_access_token()
    return token is None or scope_of(operation) in token.scopes
