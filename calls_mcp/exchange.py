"""One request to the Calls API and its answer, over HTTP by aiohttp."""

from base64 import b64encode
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Protocol
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from calls_mcp import __version__
from calls_mcp.failures import Answer, lost
from calls_mcp.settings import Access
from calls_mcp.surroundings import certificates, proxy
from calls_mcp.wire import Request

_LARGEST_BODY = 16 * 2**20  # bytes; a page of 1000 calls has about 2 MB
_IDLE = 20  # seconds that a connection is kept


class Sending(Protocol):
    """Takes note of whether a request may have left this machine."""

    has_left: bool


class Http:
    """Connections to the Calls API. Redirects are not followed, and no request is sent twice.

    Raises:
        ConfigurationError: The environment names certificates or a proxy that can't be used.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        pair = f"{access.username}:{access.password}".encode()
        self._login = f"Basic {b64encode(pair).decode()}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_IDLE, ssl=certificates(access)
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=access.timeout, sock_read=access.timeout
            ),
            proxy=proxy(access),
            trace_configs=[_tracing()],
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(self, request: Request, sending: Sending, more: Mapping[str, str]) -> Answer:
        """The answer, whatever it says; `more` are headers for this request alone.

        Raises:
            aiohttp.ClientError: There is none.
            TimeoutError: There is none in time.
            InvocationError: It is too large to read.
        """
        query = f"?{urlencode(request.query)}" if request.query else ""
        form = urlencode(request.form).encode() if request.method == "POST" else None
        # Not the session's own headers: those aiohttp tells a proxy, too.
        headers = {
            "Accept": "application/json",
            "Authorization": self._login,
            "User-Agent": f"calls-mcp/{__version__}",
            **more,
        }
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        asking = self._session.request(
            request.method,
            URL(f"{self._access.base_url}{request.path}{query}", encoded=True),
            data=form,
            headers=headers,
            allow_redirects=False,
            trace_request_ctx=sending,
            middlewares=[_once()],
        )
        async with asking as response:
            chunks, size = list[bytes](), 0
            async for chunk in response.content.iter_any():
                chunks.append(chunk)
                size += len(chunk)
                if size > _LARGEST_BODY:
                    raise lost(request, "the API's answer was too large to read")
            told = response.headers
            request_id = told.get("Twilio-Request-Id", "")
            wait, date = told.get("Retry-After"), told.get("Date", "")
            return Answer(response.status, wait, b"".join(chunks), request_id, date)


def _once() -> aiohttp.ClientMiddlewareType:
    """Fails for good where aiohttp would send again what may have been carried out already."""
    failed: aiohttp.ClientError | None = None

    async def send_once(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        nonlocal failed
        if failed is not None:
            raise failed
        try:
            return await send(request)
        except aiohttp.ClientError as failure:
            failed = failure
            raise

    return send_once


def _tracing() -> aiohttp.TraceConfig:
    """Notes that a request has a connection, from when on it may have left."""
    tracing = aiohttp.TraceConfig()

    async def note(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.has_left = True

    tracing.on_connection_create_end.append(note)
    tracing.on_connection_reuseconn.append(note)
    return tracing
