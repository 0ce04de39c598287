"""Connect to the API, with the environment's certificates and proxy, or in this process."""

import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast
from urllib.parse import urlsplit

import anyio
import httpx

from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import Access
from calls_mcp.twilio.proxies_and_certificates import named_certificates, named_proxy

_IDLE = 20  # seconds that a connection is kept


@dataclass(frozen=True, slots=True)
class ConnectionFailure:
    """Why a connection failed. `words` contain no URL."""

    cause: Literal["certificate", "proxy", "name", "refused", "other"]
    words: str


class Connections:
    """Transports to the API. Each has one connection and serves one request at a time.

    httpx's own pool would offer an idle connection to all waiting requests, and all but one of them
    would search again. `httpx.AsyncClient` would add 0.14 ms to a request for redirects, cookies
    and log lines with phone numbers, none of which are wanted.

    Raises:
        ConfigurationError: The certificates or the proxy of the environment can't be used.
    """

    def __init__(self, access: Access) -> None:
        self._open = _opener(access)
        first = self._open()  # which loads what the first request needs
        self._idle: deque[tuple[float, httpx.AsyncBaseTransport]] = deque([(0.0, first)])
        """The idle transports, and since when (anyio's clock), most recently used last."""
        self._is_closed = False

    @asynccontextmanager
    async def transport(self) -> AsyncGenerator[httpx.AsyncBaseTransport]:
        """Yield the transport that was used last among the idle ones, or else a new one."""
        await self._close_unused()
        transport = self._idle.pop()[1] if self._idle else self._open()
        is_reusable = False
        try:
            yield transport
            is_reusable = not self._is_closed
        finally:
            if is_reusable:
                self._idle.append((anyio.current_time(), transport))
            else:  # after a failure, httpcore can keep a connection that it never uses again
                with anyio.CancelScope(shield=True):
                    await transport.aclose()

    async def aclose(self) -> None:
        """Close the idle transports now, and each other one after its request."""
        self._is_closed = True
        while self._idle:
            await self._idle.popleft()[1].aclose()

    async def _close_unused(self) -> None:
        """Close one unused transport, because closing all would delay the request."""
        if len(self._idle) > 1 and self._idle[0][0] < anyio.current_time() - _IDLE:
            await self._idle.popleft()[1].aclose()


def _opener(access: Access) -> Callable[[], httpx.AsyncBaseTransport]:
    if access.app is not None:
        return partial(httpx.ASGITransport, access.app, raise_app_exceptions=False)
    return _opener_to(access.base_url)


def connect_to(url: str) -> httpx.AsyncHTTPTransport:
    """Return the transport for the host of `url`, with the environment's certificates and proxy.

    Raises:
        ConfigurationError: These can't be used.
    """
    return _opener_to(url)()


def _opener_to(url: str) -> Callable[[], httpx.AsyncHTTPTransport]:
    certificates = _certificates(url)
    # Nothing waits for httpx's pool, because a request that is cancelled there can leak a slot.
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=_IDLE
    )
    try:
        named = named_proxy(url)
        proxy = httpx.Proxy(named) if named else None
        if proxy and not (proxy.url.host and proxy.url.scheme in ("http", "https")):
            raise ValueError  # noqa: TRY301
    except (ValueError, httpx.InvalidURL):  # their messages contain the URL
        raise ConfigurationError(
            "HTTPS_PROXY or ALL_PROXY must be http://HOST:PORT; other proxies, such as SOCKS, are "
            "not supported. To connect without a proxy, set NO_PROXY=api.twilio.com."
        ) from None
    return partial(
        httpx.AsyncHTTPTransport, verify=certificates, trust_env=False, limits=limits, proxy=proxy
    )


def connection_failure(error: BaseException, url: str) -> ConnectionFailure | None:
    """Return why a request to `url` failed with `error`; None if the cause is unknown."""
    causes = [*_causes(error)]
    refusal = next((cause for cause in causes if isinstance(cause, httpx.ProxyError)), None)
    if refusal:  # its message contains the proxy's own text
        status = str(refusal)[:3]
        answered = f" with status {status}" if status.isdecimal() else ""
        return ConnectionFailure("proxy", f"the proxy refused to connect{answered}")
    failure = next(filter(None, map(_failure, causes)), None)
    is_connecting = any(isinstance(c, httpx.ConnectError | httpx.ConnectTimeout) for c in causes)
    has_tls = any(isinstance(c, ssl.SSLError) for c in causes)  # with the API, through the proxy
    if failure and is_connecting and not has_tls and named_proxy(url):
        return ConnectionFailure("proxy", f"the proxy can't be reached: {failure.words}")
    return failure


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, outermost first."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _causes(member)
    if cause := error.__cause__ or error.__context__:
        yield from _causes(cause)


def _failure(cause: BaseException) -> ConnectionFailure | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        words = f"the server's certificate can't be verified ({cause.verify_message.rstrip('.')})"
        return ConnectionFailure("certificate", words)
    broken = httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError
    known = (
        (ssl.SSLError, ConnectionFailure("other", "TLS handshake failed")),
        (socket.gaierror, ConnectionFailure("name", "host name not found")),
        (ConnectionRefusedError, ConnectionFailure("refused", "connection refused")),
        (httpx.TimeoutException | TimeoutError, ConnectionFailure("other", "timed out")),
        (broken, ConnectionFailure("other", "the server disconnected, or does not speak HTTP")),
    )
    return next((failure for kinds, failure in known if isinstance(cause, kinds)), None)


def _certificates(url: str) -> ssl.SSLContext:
    if urlsplit(url).scheme != "https":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # empty, because loading a bundle is slow
    return named_certificates() or httpx.create_ssl_context(trust_env=False)
