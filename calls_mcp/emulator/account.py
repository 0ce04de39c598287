"""Whose calls these are, and who may see them."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from calls_mcp.emulator.errors import ApiError

NO_KEYS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Account:
    """The one account an emulator serves.

    Attributes:
        sid: The account SID: in every path, and the user name that goes with the token.
        auth_token: The password that goes with the account SID.
        api_keys: The secret of each API key, by key SID (`SK…`).
    """

    sid: str
    auth_token: str = field(repr=False)
    api_keys: Mapping[str, str] = field(default_factory=lambda: NO_KEYS, repr=False)

    def password_of(self, username: str) -> str | None:
        """The password that lets this user in, or None for a stranger."""
        if username == self.sid:
            return self.auth_token
        return self.api_keys.get(username)

    def authenticate(self, authorization: str | None) -> None:
        """Accept an `Authorization` header.

        Raises:
            ApiError: 401 with code 20003, whatever is wrong with the header.
        """
        username, password = basic_credentials(authorization)
        expected = self.password_of(username)
        if expected is None or not hmac.compare_digest(expected.encode(), password.encode()):
            raise ApiError(401, 20003, "Authenticate")


def basic_credentials(authorization: str | None) -> tuple[str, str]:
    """The user name and password of a Basic `Authorization` header; two empty ones without it."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        username, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return username, password


DEFAULT_ACCOUNT = Account(sid=f"AC{0:032}", auth_token="emulator")  # noqa: S106  # no secret
