"""The account of an emulator: its credentials and the routes below its path."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.routing import Route

from calls_mcp.emulator.endpoints import Endpoint, route
from calls_mcp.emulator.parameters import API_VERSION, ApiError, not_found


@dataclass(frozen=True)
class Account:
    """The account of an emulator.

    Attributes:
        sid: The account SID: part of every path, and the user name for the auth token.
        auth_token: The password for the account SID.
        api_keys: The secret of each API key, by key SID (`SK…`).
    """

    sid: str
    auth_token: str = field(repr=False)
    api_keys: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    def authenticate(self, authorization: str | None) -> None:
        """Raise ApiError (401) unless this `Authorization` header is valid."""
        username, password = basic_credentials(authorization)
        expected = self.auth_token if username == self.sid else self.api_keys.get(username)
        if expected is None or not hmac.compare_digest(expected.encode(), password.encode()):
            raise ApiError(401, 20003, "Authenticate")

    def root_route(self, endpoints: Mapping[str, Endpoint]) -> Route:
        """Return the route of the list of accounts."""
        return route(f"/{API_VERSION}/Accounts.json", endpoints, self._require_credentials)

    def route(
        self, path: str, endpoints: Mapping[str, Endpoint], *, is_public: bool = False
    ) -> Route:
        """Return a route below the account's path, with an endpoint for each method."""
        check = self._require_this_account if is_public else self._authorize
        return route(f"/{API_VERSION}/Accounts/{{account}}{path}", endpoints, check)

    def _require_credentials(self, request: Request) -> None:
        self.authenticate(request.headers.get("authorization"))

    def _authorize(self, request: Request) -> None:
        self._require_credentials(request)
        self._require_this_account(request)

    def _require_this_account(self, request: Request) -> None:
        if request.path_params["account"] != self.sid:
            raise not_found(request.url.path)


DEFAULT_ACCOUNT = Account(sid=f"AC{0:032}", auth_token="emulator")  # noqa: S106  # no secret


def basic_credentials(authorization: str | None) -> tuple[str, str]:
    """Return the user name and password of a Basic `Authorization` header, or empty strings."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        username, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return username, password
