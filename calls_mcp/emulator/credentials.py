"""The account of an emulator and its credentials."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from calls_mcp.emulator.api_errors import ApiError

API_VERSION = "2010-04-01"


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

    @property
    def path(self) -> str:
        """The path below which the account's resources are."""
        return f"/{API_VERSION}/Accounts/{self.sid}"

    def authenticate(self, authorization: str | None) -> None:
        """Raise ApiError (401) unless this `Authorization` header is valid."""
        username, password = basic_credentials(authorization)
        expected = self.auth_token if username == self.sid else self.api_keys.get(username)
        if expected is None or not hmac.compare_digest(expected.encode(), password.encode()):
            raise ApiError(401, 20003, "Authenticate")


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
