"""Verify access tokens of an OAuth authorization server: JWTs signed with its published keys.

The keys are discovered, cached and refreshed.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from typing import cast
from urllib.parse import urlsplit

import anyio
import httpx
import jwt
from starlette.authentication import AuthenticationError

from calls_mcp.errors import ConfigurationError
from calls_mcp.http.principals import NO_PRINCIPALS, PrincipalsFile, PrincipalsMissing
from calls_mcp.observability.redaction import escape_invisible
from calls_mcp.service.grants import Grant, is_reserved
from calls_mcp.settings import AuthSettings, Settings, is_loopback
from calls_mcp.twilio.transport import connect_to, connection_failure

_log = logging.getLogger(__name__)

_ALGORITHMS = (  # the asymmetric ones
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
_LEEWAY = 30  # seconds by which clocks may differ
_LONGEST_NAME = 255  # characters
_TIMEOUT = 5  # seconds, for all documents together
_FRESH = 600  # seconds after which the keys are fetched again
_MAX_AGE = 3600  # seconds for which keys stay valid while fetching them fails
_FETCH_EVERY = 10  # seconds between two fetches, even if tokens name unknown keys
_MAX_BYTES = 2**20  # of a document

_Document = Mapping[str, object]


class IssuerUnavailable(AuthenticationError):
    """The issuer's keys can't be fetched, so tokens can't be checked."""


class _Unusable(Exception):
    """A document of the issuer can't be used; the message says why."""


_FAILURES = (
    *(_Unusable, ConfigurationError, jwt.PyJWTError, TimeoutError),
    *(httpx.HTTPError, httpx.InvalidURL),
)


class KeySet:
    """The keys of `issuer`. `clock` is monotonic, in seconds."""

    def __init__(self, issuer: str, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._clock = clock
        self._keys: Mapping[str | None, jwt.PyJWK] = {}
        self._tried = self._fetched = float("-inf")
        self._fetching = anyio.Lock()

    async def key(self, identifier: str | None) -> jwt.PyJWK | None:
        """Return the issuer's key with this id; None if the issuer has no such key.

        Raises:
            IssuerUnavailable: The issuer's keys are not known.
        """
        if not self._is_known(identifier):
            async with self._fetching:
                if not self._is_known(identifier) and not self._is_tried:
                    await self._fetch()
        if self._clock() - self._fetched >= _MAX_AGE:
            raise IssuerUnavailable("the issuer's keys can't be fetched")
        return self._keys.get(identifier)

    @property
    def _is_tried(self) -> bool:
        return self._clock() - self._tried < _FETCH_EVERY

    def _is_known(self, identifier: str | None) -> bool:
        """Return whether the key is cached and fresh, or stale while the issuer can't be asked."""
        longest = _MAX_AGE if self._is_tried else _FRESH
        return identifier in self._keys and self._clock() - self._fetched < longest

    async def _fetch(self) -> None:
        """Fetch the keys. If that fails, keep the cached ones."""
        self._tried = self._clock()
        try:
            with anyio.fail_after(_TIMEOUT, shield=True):  # other requests wait for it too
                keys = await self._published()
        except _FAILURES as failure:
            _log.warning(
                "Cannot fetch the signing keys of the OAuth issuer %s: %s. Retrying in %d s; "
                "check CALLS_MCP_OAUTH_ISSUER.",
                self._issuer,
                _reason(failure, self._issuer),
                _FETCH_EVERY,
            )
            return
        self._keys = {key.key_id: key for key in keys}
        self._fetched = self._clock()

    async def _published(self) -> list[jwt.PyJWK]:
        document = await _document(await self._location())
        keys = jwt.PyJWKSet.from_dict(dict(document)).keys
        return [k for k in keys if k.algorithm_name in _ALGORITHMS and k.public_key_use != "enc"]

    async def _location(self) -> str:
        failures: list[str] = []
        for url in _metadata_urls(self._issuer):
            try:
                return self._keys_location(await _document(url))
            except _Unusable as failure:
                failures.append(str(failure))
        raise _Unusable("; ".join(failures))

    def _keys_location(self, metadata: _Document) -> str:
        location = metadata.get("jwks_uri")
        if metadata.get("issuer") != self._issuer or not isinstance(location, str):
            raise _Unusable("its metadata has another issuer or no jwks_uri")
        if not _is_safe(location) and not (_is_local(self._issuer) and _is_local(location)):
            raise _Unusable("the jwks_uri in its metadata is not https")
        return location


def _metadata_urls(issuer: str) -> Iterator[str]:
    """Yield the URLs of an issuer's metadata by RFC 8414 and OpenID Connect Discovery."""
    url = urlsplit(issuer)
    origin, path = f"{url.scheme}://{url.netloc}", url.path.rstrip("/")
    yield f"{origin}/.well-known/oauth-authorization-server{path}"
    yield f"{origin}/.well-known/openid-configuration{path}"
    if path:
        yield f"{origin}{path}/.well-known/openid-configuration"


def _reason(failure: Exception, url: str) -> str:
    known = connection_failure(failure, url)
    return known.words if known else str(failure).rstrip(".")


def _is_safe(url: str) -> bool:
    try:
        return urlsplit(url).scheme == "https"
    except ValueError:
        raise _Unusable("the jwks_uri in its metadata is not a URL") from None


def _is_local(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname)


async def _document(url: str) -> _Document:
    """Return the JSON object at `url`, without following redirects."""
    body = await _body(url)
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        raise _Unusable(f"{url} is not JSON") from None
    if not isinstance(document, dict):
        raise _Unusable(f"{url} is not a JSON object")
    return cast("_Document", document)


async def _body(url: str) -> bytes:
    """Return the body at `url`. A compressed body is not decompressed, so it fails as JSON."""
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    body = bytearray()
    async with (
        httpx.AsyncClient(transport=connect_to(url)) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        if response.status_code != HTTPStatus.OK:
            raise _Unusable(f"{url} answered {response.status_code}")
        async for part in response.aiter_raw():
            body += part
            if len(body) > _MAX_BYTES:
                raise _Unusable(f"{url} is larger than 1 MiB")
    return bytes(body)


class JwtVerifier:
    """Verifies access tokens by their signature and claims."""

    def __init__(self, auth: AuthSettings, keys: KeySet, principals: PrincipalsFile | None) -> None:
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
            if header.get("alg") not in _ALGORITHMS:
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
            algorithms=_ALGORITHMS,
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
        principals = self._principals.now() if self._principals else NO_PRINCIPALS
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
