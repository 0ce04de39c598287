"""Random secrets, and a search for them in a text."""

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus

# The first twelve characters of each include some that encodings change.
AUTH_TOKEN = "t/k+7 %a9Zauth-token-q5Xw"
API_SECRET = "s/c+8 %b8Yapi-secret-r6Vu"
KEY = "k/y+9 %c7Xsecret-keys-s7Tn-long-enough".replace(" ", "_")
REDIS_PASSWORD = "r.d-0_c6Wredis-password-t8"  # it must be valid in a URL
SIP_PASSWORD = "p/w+1 %d5Vsip-password-u9Rm"
CALL_TOKEN = "c/t+2 %e4Ucall-token-v0Ql"

SECRETS: Mapping[str, str] = {
    "auth token": AUTH_TOKEN,
    "API key secret": API_SECRET,
    "CALLS_MCP_SECRET_KEYS": KEY,
    "Redis password": REDIS_PASSWORD,
    "sip_auth_password": SIP_PASSWORD,
    "call_token": CALL_TOKEN,
}
_TELLING = 12  # characters of a secret that must not be shown


def betrayed(text: str) -> list[str]:
    """Return the secrets that `text` contains, in whole or in part, in any encoding."""
    return [
        f"{name} as {form!r}"
        for name, secret in SECRETS.items()
        for form in forms(secret[:_TELLING])
        if form in text
    ]


def forms(secret: str) -> set[str]:
    """Return the encodings of a text of twelve characters."""
    digits = secret.encode().hex()
    plain = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    escaped = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return plain | escaped | {digits, digits.upper(), *_in_base64(secret.encode())}


def _in_base64(secret: bytes) -> Iterator[str]:
    """Yield the parts of the base64 of `secret` that don't depend on the bytes around it."""
    for before in range(3):
        for encode in (b64encode, urlsafe_b64encode):
            text = encode(bytes(before) + secret).decode().rstrip("=")
            is_whole = (before + len(secret)) % 3 == 0
            yield text[(0, 2, 3)[before] : None if is_whole else -1]
