"""Sign tokens and cursors. Replicas with the same keys accept each other's."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from functools import partial

import itsdangerous

from calls_mcp.tools.catalog import Json

# 120 bits can't be guessed and need no padding; a model has to repeat every character.
_DIGEST = partial(hashlib.blake2b, digest_size=15)


# The base64 decoder ignores unknown characters, so only the canonical spelling is accepted.
_CANONICAL = re.compile(r"[^\n]+\.[A-Za-z0-9_-]{20}")


class Signer:
    """Signs with the first of `keys` (HMAC), and accepts signatures of all of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        oldest_first = [*reversed(keys)]
        self._digest = hmac.new(keys[0].encode(), b"digest\0", hashlib.sha256)
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
        """Return a token that contains `identifier` in plain text."""
        return self._signer.sign(identifier).decode()

    def verify(self, token: str) -> str | None:
        """Return the identifier in a valid token; None for any other string."""
        if not _CANONICAL.fullmatch(token):
            return None
        try:
            return self._signer.unsign(token).decode()
        except itsdangerous.BadSignature:
            return None

    def digest(self, text: str) -> str:
        """Return a keyed digest, which identifies a text without revealing it."""
        keyed = self._digest.copy()
        keyed.update(text.encode())
        return keyed.hexdigest()[:32]

    def pack(self, value: Json, principal: str) -> str:
        """Return `value` as a signed, URL-safe string for this principal."""
        return str(self._serializer.dumps(value, _salt(principal)))

    def unpack(self, text: str, principal: str) -> Json:
        """Return the value that `pack` signed for this principal; None for any other string."""
        if not _CANONICAL.fullmatch(text):
            return None
        try:
            value: Json = self._serializer.loads(text, _salt(principal))
        except itsdangerous.BadSignature:
            return None
        return value


def _salt(principal: str) -> bytes:
    return b"calls-mcp/cursor\0" + principal.encode(errors="surrogatepass")
