"""Callbacks: signature and delivery."""

import asyncio
import base64
import hmac
import logging
import sqlite3
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from urllib.parse import urldefrag, urlencode, urlsplit
from uuid import NAMESPACE_URL, uuid5

import httpx

from calls_mcp.emulator.callback_queue import Callback, CallbackQueue

TIMEOUT = 5  # seconds for one attempt, including the whole response
PAUSES = (1, 5, 25)  # seconds between attempts; the attempt after the last pause is the final one
POLL_INTERVAL = 0.05  # seconds
CONCURRENCY = 8
_RETRIED = 500  # this HTTP status and higher ones are retried

logger = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether this is `localhost` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def signature(url: str, form: Mapping[str, str], auth_token: str) -> str:
    """Return the `X-Twilio-Signature` of a request with this form in its body."""
    text = url + "".join(name + form[name] for name in sorted(form))
    digest = hmac.digest(auth_token.encode(), text.encode(), "sha1")
    return base64.b64encode(digest).decode()


def callback_request(
    http: httpx.AsyncClient, callback: Callback, account_sid: str, auth_token: str
) -> httpx.Request:
    """Return the HTTP request for a callback, signed with the account's token."""
    form = {**callback.form, "AccountSid": account_sid}
    url = urldefrag(callback.url).url
    # the same for every attempt of this delivery
    token = str(uuid5(NAMESPACE_URL, f"{callback.sid}/{callback.id}"))
    headers = {"I-Twilio-Idempotency-Token": token, "User-Agent": "TwilioProxy/1.1"}
    if callback.method == "GET":
        url += f"{'&' if urlsplit(url).query else '?'}{urlencode(form)}"
        form.clear()
    else:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    headers["X-Twilio-Signature"] = signature(url, form, auth_token)
    body = urlencode(form) or None
    return http.build_request(callback.method, url, headers=headers, content=body)


@cache
def _certificates() -> ssl.SSLContext:
    """Return the certificates, cached because reading them takes longer than the start."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass
class CallbackSender:
    """Sends due callbacks, and retries those that were not received.

    Attributes:
        queue: The callbacks.
        account_sid: The account that the calls belong to.
        auth_token: Signs the callbacks.
        anywhere: Whether other machines can receive callbacks.
    """

    queue: CallbackQueue
    account_sid: str
    auth_token: str
    anywhere: bool
    _deliveries: "set[asyncio.Task[None]]" = field(init=False, default_factory=set)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Send while the context is open."""
        async with httpx.AsyncClient(trust_env=False, verify=_certificates()) as http:
            polling = asyncio.create_task(self._poll(http))
            try:
                yield
            finally:
                tasks = [polling, *self._deliveries]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self, http: httpx.AsyncClient) -> None:
        """Poll, because the clock can jump and other processes can place calls."""
        while True:
            try:
                claimed = self.queue.claim(CONCURRENCY - len(self._deliveries), 2 * TIMEOUT)
            except sqlite3.OperationalError as error:  # while another process writes
                logger.warning("callbacks are delayed: %s", error)
                claimed = []
            for callback in claimed:
                delivery = asyncio.create_task(self._deliver(callback, http))
                self._deliveries.add(delivery)
                delivery.add_done_callback(self._deliveries.discard)
            await asyncio.sleep(POLL_INTERVAL)

    async def _deliver(self, callback: Callback, http: httpx.AsyncClient) -> None:
        outcome, retry = await self._attempt(callback, http)
        may_retry = retry and callback.attempts <= len(PAUSES)
        pause = PAUSES[callback.attempts - 1] if may_retry else None
        self.queue.settle(callback, outcome, pause)

    async def _attempt(self, callback: Callback, http: httpx.AsyncClient) -> tuple[str, bool]:
        """Make one attempt; return its outcome, and whether to retry."""
        try:
            request = callback_request(http, callback, self.account_sid, self.auth_token)
            if not self.anywhere and not is_loopback(request.url.host):
                return (
                    "not sent: other machines receive no callbacks (see --callbacks-anywhere)",
                    False,
                )
            status = await _send(http, request)
        except httpx.InvalidURL as error:
            return f"not sent: {error}", False
        except (httpx.HTTPError, TimeoutError) as error:
            logger.info("callback %s: %r", callback.id, error)
            return f"no response: {error}" if str(error) else "no response", True
        return str(status), status >= _RETRIED


async def _send(http: httpx.AsyncClient, request: httpx.Request) -> int:
    """Send a request and read its response to the end; return the HTTP status."""
    async with asyncio.timeout(TIMEOUT):
        async with aclosing(await http.send(request, stream=True)) as response:
            async for _ in response.aiter_raw():
                pass
            return response.status_code
