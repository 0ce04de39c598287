"""Bearer tokens of our own making: random, known by their hash, good until they expire."""

import hashlib
import hmac
import secrets
from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial

from calls_mcp.http.principals import PrincipalsFile
from calls_mcp.service.grants import Grant

_PREFIX = "calls_"
_BYTES = 32  # of randomness: too many to guess, so that a plain hash is enough


class FileVerifier:
    """Verifies tokens by the hashes in a file of principals."""

    def __init__(self, file: PrincipalsFile) -> None:
        self._file = file

    async def verify_token(self, token: str) -> Grant | None:
        """What it grants, if anything; to find out takes as long for any token."""
        return await self._granted(_digest(token))

    async def _granted(self, digest: str) -> Grant | None:
        principals = self._file.now()
        known = [t for t in principals.tokens if hmac.compare_digest(t.sha256, digest)]
        entry = next((t for t in known if t.expires > datetime.now(UTC)), None)
        if entry is None:
            return None
        grant = Grant(
            client_id=entry.principal,
            subject=entry.principal,
            scopes=sorted(entry.scopes),
            expires_at=int(entry.expires.timestamp()),
        )
        renew = partial(self._granted, digest)
        return grant.held(principals.own.get(entry.principal), renew)


def new_token(principal: str, scopes: Collection[str], expires: datetime) -> tuple[str, str]:
    """A new token, and the lines about it for the file of principals."""
    token = _PREFIX + secrets.token_urlsafe(_BYTES)
    lines = (
        "[[tokens]]",
        f'principal = "{principal}"',
        f'sha256 = "{_digest(token)}"',
        "scopes = [" + ", ".join(f'"{scope}"' for scope in sorted({*scopes})) + "]",
        f"expires = {expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    return token, "\n".join(lines) + "\n"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
