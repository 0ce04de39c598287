"""The keys of an OAuth authorization server: found by its metadata, cached, fetched anew if new."""

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
from calls_mcp.twilio.transport import connect_to

_log = logging.getLogger(__name__)

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Those that sign with a key nobody but the issuer has."""

_TIMEOUT = 5  # seconds for all the documents together
_FRESH = 600  # seconds after which the keys are fetched again
_MAX_AGE = 3600  # seconds for which they are good while they can't be fetched again
_FETCH_EVERY = 10  # seconds between two fetches, however many unknown keys are named
_MAX_BYTES = 2**20  # bytes of a document

Document = Mapping[str, object]


class IssuerUnavailable(AuthenticationError):
    """The issuer's keys can't be had, so nobody can tell whether a token is good."""


class _Unusable(Exception):
    """A document of the issuer's is not what it should be."""


_FAILURES = (
    *(_Unusable, ConfigurationError, jwt.PyJWTError, TimeoutError),
    *(httpx.HTTPError, httpx.InvalidURL),
)


class KeySet:
    """The keys of `issuer`; `clock` gives seconds that never go back."""

    def __init__(self, issuer: str, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._clock = clock
        self._keys: Mapping[str | None, jwt.PyJWK] = {}
        self._tried = self._fetched = float("-inf")
        self._fetching = anyio.Lock()

    async def key(self, identifier: str | None) -> jwt.PyJWK | None:
        """Return the issuer's key of this identifier, if there is one.

        Raises:
            IssuerUnavailable: That is not known.
        """
        if not self._is_known(identifier):
            async with self._fetching:
                if not self._is_known(identifier) and not self._is_tried:
                    await self._fetch()
        if self._clock() - self._fetched >= _MAX_AGE:
            raise IssuerUnavailable("the issuer's keys can't be had")
        return self._keys.get(identifier)

    @property
    def _is_tried(self) -> bool:
        return self._clock() - self._tried < _FETCH_EVERY

    def _is_known(self, identifier: str | None) -> bool:
        """Return whether there is a key to use: a fresh one, or the freshest to be had just now."""
        longest = _MAX_AGE if self._is_tried else _FRESH
        return identifier in self._keys and self._clock() - self._fetched < longest

    async def _fetch(self) -> None:
        """Fetch the keys; those we have stay if that fails."""
        self._tried = self._clock()
        try:
            with anyio.fail_after(_TIMEOUT, shield=True):  # others wait for it, too
                keys = await self._published()
        except _FAILURES as failure:
            _log.warning("The keys of %s can't be had: %r", self._issuer, failure)
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
            raise _Unusable("the metadata is another issuer's, or names no keys")
        if not _is_safe(location) and not (_is_local(self._issuer) and _is_local(location)):
            raise _Unusable("the keys would come unprotected")
        return location


def metadata_urls(issuer: str) -> Iterator[str]:
    """Yield where RFC 8414 and OpenID Connect have an issuer publish its metadata."""
    url = urlsplit(issuer)
    origin, path = f"{url.scheme}://{url.netloc}", url.path.rstrip("/")
    yield f"{origin}/.well-known/oauth-authorization-server{path}"
    yield f"{origin}/.well-known/openid-configuration{path}"
    if path:
        yield f"{origin}{path}/.well-known/openid-configuration"


def _is_safe(url: str) -> bool:
    try:
        return urlsplit(url).scheme == "https"
    except ValueError:
        raise _Unusable("the keys have no URL that can be read") from None


def _is_local(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname)


async def _document(url: str) -> Document:
    """Return the JSON object at `url`. Redirections are not followed."""
    body = await _body(url)
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        raise _Unusable(f"{url} is not JSON") from None
    if not isinstance(document, dict):
        raise _Unusable(f"{url} is not a JSON object")
    return cast("Document", document)


async def _body(url: str) -> bytes:
    """Return what is at `url` as it comes: what is packed is not unpacked, and so is not JSON."""
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
                raise _Unusable(f"{url} is too large")
    return bytes(body)
