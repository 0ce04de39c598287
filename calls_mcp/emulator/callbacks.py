"""Status callbacks: their parameters, their signature, and their delivery."""

import asyncio
import base64
import hmac
import logging
import sqlite3
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from urllib.parse import urldefrag, urlencode, urlsplit
from uuid import NAMESPACE_URL, uuid5

import httpx

from calls_mcp.emulator.calls import API_VERSION, LIVE, Callback, rfc2822
from calls_mcp.emulator.storage import Outbox

TIMEOUT = 5  # seconds for one attempt, to the end of its answer
LOOK_EVERY = 0.05  # seconds
AT_ONCE = 8
_TRY_AGAIN_FROM = 500  # HTTP statuses from this one on

logger = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether this is `localhost` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parameters(callback: Callback, account_sid: str) -> dict[str, str]:
    """Return the parameters of a callback."""
    values = {
        "CallSid": callback.sid,
        "AccountSid": account_sid,
        "From": callback.from_,
        "To": callback.to,
        "Caller": callback.from_,
        "Called": callback.to,
        "Direction": callback.direction,
        "ApiVersion": API_VERSION,
        "CallStatus": callback.status,
        "CallbackSource": "call-progress-events",
        "SequenceNumber": str(callback.sequence),
        "Timestamp": rfc2822(callback.at),
    }
    if callback.answered_by:
        values["AnsweredBy"] = callback.answered_by
    if callback.status not in LIVE | {"initiated"}:
        seconds = callback.duration or 0
        values |= {"CallDuration": str(seconds), "Duration": str((seconds + 59) // 60)}
    return values


def signature(url: str, form: Mapping[str, str], auth_token: str) -> str:
    """Return the `X-Twilio-Signature` of a request with this form in its body."""
    text = url + "".join(name + form[name] for name in sorted(form))
    digest = hmac.digest(auth_token.encode(), text.encode(), "sha1")
    return base64.b64encode(digest).decode()


def callback_request(
    http: httpx.AsyncClient, callback: Callback, account_sid: str, auth_token: str
) -> httpx.Request:
    """Return the HTTP request for a callback, signed with the account's token."""
    url, form = urldefrag(callback.url).url, parameters(callback, account_sid)
    # the same for every attempt at this delivery, and for no other
    token = str(uuid5(NAMESPACE_URL, f"{callback.sid}/{callback.sequence}"))
    headers = {"I-Twilio-Idempotency-Token": token, "User-Agent": "TwilioProxy/1.1"}
    if callback.method == "GET":
        url += f"{'&' if urlsplit(url).query else '?'}{urlencode(form)}"
        form.clear()
    else:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    headers["X-Twilio-Signature"] = signature(url, form, auth_token)
    body = urlencode(form) or None
    return http.build_request(callback.method, url, headers=headers, content=body)


async def _send(http: httpx.AsyncClient, request: httpx.Request) -> int:
    """Send a request and read its answer to the end; returns the HTTP status."""
    async with asyncio.timeout(TIMEOUT):
        answer = await http.send(request, stream=True)
        try:
            async for _ in answer.aiter_raw():
                pass
        finally:
            await answer.aclose()
    return answer.status_code


@cache
def _certificates() -> ssl.SSLContext:
    """Cached: reading them takes longer than starting an emulator."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass
class Courier:
    """Sends the callbacks of an outbox when they are due, and repeats what was not received.

    Attributes:
        outbox: The callbacks.
        account_sid: The account that the calls belong to.
        auth_token: Signs the callbacks.
        anywhere: Whether they may be sent to other machines.
    """

    outbox: Outbox
    account_sid: str
    auth_token: str
    anywhere: bool
    _under_way: dict[int, "asyncio.Task[None]"] = field(init=False, default_factory=dict)

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        """Send while the context is open."""
        async with httpx.AsyncClient(trust_env=False, verify=_certificates()) as http:
            looking = asyncio.create_task(self._look(http))
            try:
                yield
            finally:
                tasks = [looking, *self._under_way.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, http: httpx.AsyncClient) -> None:
        """Poll: the clock may jump, and other processes place calls."""
        while True:
            try:
                for callback in self.outbox.due():
                    self._take(callback, http)
            except sqlite3.OperationalError as error:  # while another process writes
                logger.warning("callbacks are late: %s", error)
            await asyncio.sleep(LOOK_EVERY)

    def _take(self, callback: Callback, http: httpx.AsyncClient) -> None:
        if callback.id in self._under_way or len(self._under_way) >= AT_ONCE:
            return
        if self.outbox.claim(callback, 2 * TIMEOUT):
            task = asyncio.create_task(self._deliver(callback, http))
            self._under_way[callback.id] = task
            task.add_done_callback(lambda _: self._under_way.pop(callback.id))

    async def _deliver(self, callback: Callback, http: httpx.AsyncClient) -> None:
        try:
            request = callback_request(http, callback, self.account_sid, self.auth_token)
            if not self.anywhere and not is_loopback(request.url.host):
                self.outbox.settle(callback, "not sent: only loopback is allowed", final=True)
                return
            status = await _send(http, request)
        except httpx.InvalidURL as error:
            self.outbox.settle(callback, f"not sent: {error}", final=True)
        except (httpx.HTTPError, TimeoutError) as error:
            logger.info("callback %s: %r", callback.id, error)
            why = str(error) or type(error).__name__
            self.outbox.settle(callback, f"no answer: {why}", final=False)
        else:
            self.outbox.settle(callback, str(status), final=status < _TRY_AGAIN_FROM)
