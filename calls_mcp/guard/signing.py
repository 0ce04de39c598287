"""Tokens that only this server (and replicas with its keys) can have made."""

import hashlib
import re
from collections.abc import Sequence
from functools import partial

import itsdangerous

from calls_mcp.tools.catalog import Json

# 120 bits can't be guessed, need no padding, and a model reads and repeats every character.
_DIGEST = partial(hashlib.blake2b, digest_size=15)


# The base64 decoder passes over what it does not know; no other spelling of a token is one.
_CANONICAL = re.compile(r"[^\n]+\.[A-Za-z0-9_-]{20}")


class Signer:
    """Signs with the first of `keys`, and accepts what any of them signed (HMAC)."""

    def __init__(self, keys: Sequence[str]) -> None:
        oldest_first = [*reversed(keys)]
        self._signer = itsdangerous.Signer(
            oldest_first,
            salt="calls-mcp/confirmation",
            digest_method=_DIGEST,
            key_derivation="hmac",
        )
        self._serializer = itsdangerous.URLSafeSerializer(
            oldest_first,
            signer_kwargs={"digest_method": _DIGEST, "key_derivation": "hmac"},
        )

    def sign(self, identifier: str) -> str:
        """Return a token for `identifier`, which it shows."""
        return self._signer.sign(identifier).decode()

    def verify(self, token: str) -> str | None:
        """Return the identifier of a token signed here; None for any other text."""
        if not _CANONICAL.fullmatch(token):
            return None
        try:
            return self._signer.unsign(token).decode()
        except itsdangerous.BadSignature:
            return None

    def pack(self, value: Json, principal: str) -> str:
        """Return `value` as a signed, URL-safe text that only this principal can use."""
        return str(self._serializer.dumps(value, _salt(principal)))

    def unpack(self, text: str, principal: str) -> Json:
        """Return what `pack` was given; None for a text that it did not make for them."""
        if not _CANONICAL.fullmatch(text):
            return None
        try:
            value: Json = self._serializer.loads(text, _salt(principal))
        except itsdangerous.BadSignature:
            return None
        return value


def _salt(principal: str) -> bytes:
    return b"calls-mcp/cursor\0" + principal.encode(errors="surrogatepass")
