"""Secrets that are known by heart by nobody, and whether a text betrays them."""

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus

# Each has, among its first twelve characters, some that are told differently once encoded.
AUTH_TOKEN = "t/k+7 %a9Zauth-token-q5Xw"
API_SECRET = "s/c+8 %b8Yapi-secret-r6Vu"
KEY = "k/y+9 %c7Xsecret-keys-s7Tn-long-enough".replace(" ", "_")
REDIS_PASSWORD = "r.d-0_c6Wredis-password-t8"  # it must stand in a URL
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
_TELLING = 12  # characters of a secret that are too many to show


def betrayed(text: str) -> list[str]:
    """The secrets that `text` tells, in whole or the beginning of it, in whatever encoding."""
    return [
        f"{name} as {form!r}"
        for name, secret in SECRETS.items()
        for form in forms(secret[:_TELLING])
        if form in text
    ]


def forms(secret: str) -> set[str]:
    """How a text of twelve characters may be written."""
    digits = secret.encode().hex()
    plain = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    escaped = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return plain | escaped | {digits, digits.upper(), *_in_base64(secret.encode())}


def _in_base64(secret: bytes) -> Iterator[str]:
    """What is the same of it wherever it lies in what was encoded."""
    for before in range(3):
        for encode in (b64encode, urlsafe_b64encode):
            text = encode(bytes(before) + secret).decode().rstrip("=")
            is_whole = (before + len(secret)) % 3 == 0
            yield text[(0, 2, 3)[before] : None if is_whole else -1]
