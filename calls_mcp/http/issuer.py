"""The keys of an OAuth authorization server: discovered, cached and refreshed."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import cast
from urllib.parse import urlsplit

import anyio
import httpx
import jwt
from starlette.authentication import AuthenticationError

from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import is_loopback
from calls_mcp.twilio.transport import connect_to, explain

_log = logging.getLogger(__name__)

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""The asymmetric algorithms."""

_TIMEOUT = 5  # seconds, for all documents together
_FRESH = 600  # seconds after which the keys are fetched again
_MAX_AGE = 3600  # seconds for which keys stay valid while fetching them fails
_FETCH_EVERY = 10  # seconds between two fetches, even if tokens name unknown keys
_MAX_BYTES = 2**20  # of a document

Document = Mapping[str, object]


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
        return [k for k in keys if k.algorithm_name in ALGORITHMS and k.public_key_use != "enc"]

    async def _location(self) -> str:
        failures: list[str] = []
        for url in metadata_urls(self._issuer):
            try:
                return self._keys_location(await _document(url))
            except _Unusable as failure:
                failures.append(str(failure))
        raise _Unusable("; ".join(failures))

    def _keys_location(self, metadata: Document) -> str:
        location = metadata.get("jwks_uri")
        if metadata.get("issuer") != self._issuer or not isinstance(location, str):
            raise _Unusable("its metadata has another issuer or no jwks_uri")
        if not _is_safe(location) and not (_is_local(self._issuer) and _is_local(location)):
            raise _Unusable("the jwks_uri in its metadata is not https")
        return location


def metadata_urls(issuer: str) -> Iterator[str]:
    """Yield the URLs of an issuer's metadata by RFC 8414 and OpenID Connect Discovery."""
    url = urlsplit(issuer)
    origin, path = f"{url.scheme}://{url.netloc}", url.path.rstrip("/")
    yield f"{origin}/.well-known/oauth-authorization-server{path}"
    yield f"{origin}/.well-known/openid-configuration{path}"
    if path:
        yield f"{origin}{path}/.well-known/openid-configuration"


def _reason(failure: Exception, url: str) -> str:
    known = explain(failure, url)
    return known.words if known else str(failure).rstrip(".")


def _is_safe(url: str) -> bool:
    try:
        return urlsplit(url).scheme == "https"
    except ValueError:
        raise _Unusable("the jwks_uri in its metadata is not a URL") from None


def _is_local(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname)


async def _document(url: str) -> Document:
    """Return the JSON object at `url`, without following redirects."""
    body = await _body(url)
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        raise _Unusable(f"{url} is not JSON") from None
    if not isinstance(document, dict):
        raise _Unusable(f"{url} is not a JSON object")
    return cast("Document", document)


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
