"""Verify access tokens of an OAuth authorization server: JWTs signed with its published keys."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import jwt

from calls_mcp.errors import ConfigurationError
from calls_mcp.http.issuer import ALGORITHMS, IssuerUnavailable, KeySet
from calls_mcp.http.principals import NOBODY, PrincipalsFile, PrincipalsMissing
from calls_mcp.observability.redaction import escape_invisible
from calls_mcp.service.authorization import Grant, is_reserved
from calls_mcp.settings import Auth, Settings

_log = logging.getLogger(__name__)

_LEEWAY = 30  # seconds by which clocks may differ
_LONGEST_NAME = 255  # characters


class JwtVerifier:
    """Verifies access tokens by their signature and claims."""

    def __init__(self, auth: Auth, keys: KeySet, principals: PrincipalsFile | None) -> None:
        self._auth = auth
        self._audience = auth.oauth_audience or auth.resource_url or ""
        self._keys = keys
        self._principals = principals

    async def verify_token(self, token: str) -> Grant | None:
        """Return what a token grants; None if it is not valid.

        Raises:
            IssuerUnavailable: The issuer's keys can't be fetched.
            PrincipalsMissing: The principals file is missing or can't be read.
        """
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise jwt.InvalidAlgorithmError("its algorithm is not allowed")
            identifier = header.get("kid")
            key = await self._keys.key(identifier)
            if key is None:
                raise jwt.InvalidKeyError("the issuer has no such key")
            return self._grant(self._decoded(token, key), identifier)
        except jwt.PyJWTError as invalid:
            _log.info("Rejected an access token: %s", invalid)
            return None

    def _decoded(self, token: str, key: jwt.PyJWK) -> Mapping[str, object]:
        return jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            audience=self._audience,
            issuer=self._auth.oauth_issuer,
            leeway=_LEEWAY,
            options={
                "require": ["exp", "iss", "aud", self._auth.oauth_principal_claim],
                "enforce_minimum_key_length": True,
            },
        )

    async def _renewed(self, claims: Mapping[str, object], identifier: str | None) -> Grant | None:
        """Return what verified claims grant now; None if the issuer has withdrawn their key."""
        try:
            is_good = await self._keys.key(identifier) is not None
        except IssuerUnavailable:  # it can't be checked at the moment
            is_good = True
        try:
            return self._grant(claims, identifier) if is_good else None
        except PrincipalsMissing:
            return None

    def _grant(self, claims: Mapping[str, object], identifier: str | None) -> Grant:
        name = claims[self._auth.oauth_principal_claim]
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= _LONGEST_NAME
            or not name.isprintable()
            or escape_invisible(name) != name
        ):
            claim = self._auth.oauth_principal_claim
            raise jwt.InvalidTokenError(
                f"the claim {claim} must be 1 to {_LONGEST_NAME} printable characters"
            )
        if is_reserved(name):
            raise jwt.InvalidTokenError("a principal must not be console or begin with console:")
        client = claims.get("client_id") or claims.get("azp") or name
        principals = self._principals.now() if self._principals else NOBODY
        grant = Grant(
            client_id=str(client),
            subject=name,
            scopes=_scopes(claims.get(self._auth.oauth_scope_claim)),
            expires_at=int(cast("float", claims["exp"])) + _LEEWAY,
            resource=self._audience,
            claims={"iss": self._auth.oauth_issuer},
        )
        return grant.with_overrides(
            principals.overrides.get(name), partial(self._renewed, claims, identifier)
        )


def open_jwt_verifier(settings: Settings, clock: Callable[[], float]) -> JwtVerifier:
    """Return the verifier for `settings`. `clock` is monotonic, in seconds.

    Raises:
        ConfigurationError: The principals file is wrong, or has tokens.
    """
    auth, file = settings.auth, settings.auth.principals
    principals = None if file is None else PrincipalsFile(file)
    if principals is not None and principals.now().tokens:
        raise ConfigurationError(
            f"{file}: [[tokens]] needs CALLS_MCP_AUTH=tokens, not oauth. Remove the tokens, "
            "or change CALLS_MCP_AUTH."
        )
    return JwtVerifier(auth, KeySet(auth.oauth_issuer or "", clock), principals)


def _scopes(claim: object) -> list[str]:
    """Return the scopes in a claim: a list, or a string with spaces between them."""
    if isinstance(claim, str):
        return claim.split()
    listed = cast("list[object]", claim) if isinstance(claim, list) else []
    return [str(scope) for scope in listed]
