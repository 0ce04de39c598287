"""Status callbacks: what they say, how they are signed, and their sending."""

import asyncio
import base64
import hmac
import logging
import sqlite3
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from urllib.parse import urldefrag, urlencode, urlsplit
from uuid import NAMESPACE_URL, uuid5

import httpx

from calls_mcp.emulator.account import Account
from calls_mcp.emulator.outbox import Callback, Outbox
from calls_mcp.emulator.resource import VERSION, rfc2822

TIMEOUT = 5  # seconds for one attempt, to the end of its answer
LOOK_EVERY = 0.05  # seconds
AT_ONCE = 8
NOTHING: Mapping[str, str] = {}
_THEIR_FAULT = 500  # from this status on, another attempt may be answered better
FINAL = frozenset({"completed", "busy", "no-answer", "failed", "canceled"})

logger = logging.getLogger(__name__)


def form(callback: Callback, account_sid: str) -> Mapping[str, str]:
    """The parameters of a callback."""
    parameters = {
        "CallSid": callback.sid,
        "AccountSid": account_sid,
        "From": callback.from_,
        "To": callback.to,
        "Caller": callback.from_,
        "Called": callback.to,
        "Direction": callback.direction,
        "ApiVersion": VERSION,
        "CallStatus": callback.status,
        "CallbackSource": "call-progress-events",
        "SequenceNumber": str(callback.sequence),
        "Timestamp": rfc2822(callback.at),
    }
    return parameters | dict(_occasional(callback))


def _occasional(callback: Callback) -> Iterator[tuple[str, str]]:
    if callback.answered_by:
        yield "AnsweredBy", callback.answered_by
    if callback.status in FINAL:
        seconds = callback.duration or 0
        yield "CallDuration", str(seconds)
        yield "Duration", str((seconds + 59) // 60)


def signature(url: str, parameters: Mapping[str, str], auth_token: str) -> str:
    """What `X-Twilio-Signature` says of a request with these parameters in its body."""
    text = url + "".join(name + parameters[name] for name in sorted(parameters))
    digest = hmac.digest(auth_token.encode(), text.encode(), "sha1")
    return base64.b64encode(digest).decode()


def is_loopback(host: str) -> bool:
    """Whether this names the machine itself: `localhost`, or an address of its loopback."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Delivery:
    """One HTTP request that tells of an event."""

    url: str
    method: str
    body: str
    headers: Mapping[str, str]

    async def send(self, http: httpx.AsyncClient) -> int:
        """Send it; the HTTP status of the answer.

        Raises:
            httpx.HTTPError: Nobody answered, or nobody who speaks HTTP.
            TimeoutError: The whole answer was not there in time.
        """
        request = http.build_request(
            self.method, self.url, content=self.body or None, headers=dict(self.headers)
        )
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
    """Whose certificates are believed; to read them takes longer than to start an emulator."""
    return httpx.create_ssl_context(trust_env=False)


def delivery(callback: Callback, account: Account) -> Delivery:
    """The request that tells of an event, signed with the account's token."""
    url, body = urldefrag(callback.url).url, form(callback, account.sid)
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "I-Twilio-Idempotency-Token": idempotency_token(callback),
        "User-Agent": "TwilioProxy/1.1",
    }
    if callback.method == "GET":
        url += f"{'&' if urlsplit(url).query else '?'}{urlencode(body)}"
        body = NOTHING
        del headers["Content-Type"]
    headers["X-Twilio-Signature"] = signature(url, body, account.auth_token)
    return Delivery(url, callback.method, urlencode(body), headers)


def idempotency_token(callback: Callback) -> str:
    """The same for every attempt at a delivery, and for no other."""
    return str(uuid5(NAMESPACE_URL, f"{callback.sid}/{callback.sequence}"))


@dataclass
class Courier:
    """Sends the callbacks of an outbox as they fall due, and again what was not received.

    Attributes:
        outbox: The callbacks.
        account: Whose calls they tell of.
        anywhere: Whether they may leave this machine.
    """

    outbox: Outbox
    account: Account
    anywhere: bool
    _under_way: dict[int, "asyncio.Task[None]"] = field(init=False, default_factory=dict)

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        """Sends while the context is open."""
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
        """The clock may jump, and other processes place calls: so look, rather than be told."""
        while True:
            try:
                self._take_all(http)
            except sqlite3.OperationalError as error:  # as long as another process writes
                logger.warning("callbacks are late: %s", error)
            await asyncio.sleep(LOOK_EVERY)

    def _take_all(self, http: httpx.AsyncClient) -> None:
        if self.outbox.expects:
            for callback in self.outbox.due():
                self._take(callback, http)

    def _take(self, callback: Callback, http: httpx.AsyncClient) -> None:
        if callback.id in self._under_way or len(self._under_way) >= AT_ONCE:
            return
        if not self.outbox.claim(callback, 2 * TIMEOUT):
            return
        task = asyncio.create_task(self._deliver(callback, http))
        self._under_way[callback.id] = task
        task.add_done_callback(lambda _: self._under_way.pop(callback.id))

    async def _deliver(self, callback: Callback, http: httpx.AsyncClient) -> None:
        request = delivery(callback, self.account)
        try:
            if not self.anywhere and not is_loopback(httpx.URL(request.url).host):
                self.outbox.settle(callback, "not sent: only loopback is allowed", final=True)
                return
            status = await request.send(http)
        except httpx.InvalidURL as error:
            self.outbox.settle(callback, f"not sent: {error}", final=True)
        except (httpx.HTTPError, TimeoutError) as error:
            logger.info("callback %s: %r", callback.id, error)
            why = str(error) or type(error).__name__
            self.outbox.settle(callback, f"no answer: {why}", final=False)
        else:
            self.outbox.settle(callback, str(status), final=status < _THEIR_FAULT)
