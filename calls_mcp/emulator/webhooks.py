"""Requests to the customer's URLs: signature, retries, timeouts and their overrides in the URL."""

import asyncio
import base64
import hmac
import logging
import re
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, urldefrag, urlencode, urlsplit

import httpx
from httpx import Cookies

from calls_mcp.emulator.credentials import Account

TOTAL_SECONDS = 15  # for all attempts of a request
LONGEST_BODY = 65_537  # bytes of a response that are kept, one more than TwiML can have
MOST_REDIRECTIONS = 10

_POLICIES = {name: frozenset({name}) for name in ("4xx", "5xx", "ct", "rt")}
_POLICIES["all"] = frozenset(_POLICIES)

_ELSEWHERE = "other machines receive no callbacks (see --callbacks-anywhere)"

logger = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Return whether this is `localhost` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class ConnectionOverrides(NamedTuple):
    """The settings of a request, which the fragment of its URL can override.

    https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides

    Attributes:
        retries: How often it is retried (`rc`).
        retried: The failures after which it is retried (`rp`): `4xx` and `5xx` responses, a failed
            connection (`ct`), or no response (`rt`).
        connect: Seconds for the connection (`ct`).
        read: Seconds for the response, and between its parts (`rt`).
        total: Seconds for all attempts (`tt`).
    """

    retries: int = 1
    retried: frozenset[str] = frozenset({"ct"})
    connect: float = 5
    read: float = 15
    total: float = TOTAL_SECONDS

    @classmethod
    def of(cls, fragment: str) -> Self:
        """Return the settings with these overrides, without those that are invalid."""
        given = dict(parse_qsl(fragment))
        policies = [_POLICIES.get(name) for name in given.get("rp", "ct").split(",")]
        return cls(
            retries=_whole(given.get("rc"), 0, 5, 1),
            retried=frozenset[str]().union(*(each or _POLICIES["ct"] for each in policies)),
            connect=_whole(given.get("ct"), 100, 10_000, 5_000) / 1000,
            read=_whole(given.get("rt"), 100, 15_000, 15_000) / 1000,
            total=_whole(given.get("tt"), 100, 15_000, 15_000) / 1000,
        )


def _whole(text: str | None, least: int, most: int, otherwise: int) -> int:
    if text is None or not re.fullmatch("[0-9]{1,5}", text):
        return otherwise
    return int(text) if least <= int(text) <= most else otherwise


class Reply(NamedTuple):
    """The result of a request.

    Attributes:
        status: The HTTP status of the last response, None if there was none.
        content_type: Its `Content-Type`, empty without one.
        body: Its body, or the first part of a long one.
        failure: Why there was no response, empty if there was one.
        attempts: The number of attempts.
        url: Where the last response came from, after redirections.
    """

    status: int | None = None
    content_type: str = ""
    body: bytes = b""
    failure: str = ""
    attempts: int = 0
    url: str = ""


@dataclass(frozen=True)
class Webhooks:
    """Sends an account's requests to the customer's URLs.

    Attributes:
        account: The account, which every request names, and whose auth token signs it.
        anywhere: Whether requests are sent to other machines.
        http: The HTTP client.
    """

    account: Account
    anywhere: bool
    http: httpx.AsyncClient

    def obstacle(self, url: str) -> str:
        """Return why no requests are sent to this URL, empty if they are."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            return "the URL is invalid"
        if port == 0:
            return "port 0 is invalid"
        return "" if self.anywhere or is_loopback(parts.hostname or "") else _ELSEWHERE

    async def send(
        self,
        method: str,
        url: str,
        form: Mapping[str, str],
        token: str,
        cookies: Cookies | None = None,
    ) -> Reply:
        """Send a request, and retry it as its URL says. Redirections are followed.

        Args:
            method: `GET` or `POST`.
            url: Where it is sent. The fragment has overrides and is not sent.
            form: The parameters, except `AccountSid`.
            token: The `I-Twilio-Idempotency-Token`, the same for every attempt.
            cookies: What earlier responses set. Those of this response are added.
        """
        reply = Reply(failure="no response")
        try:
            address, fragment = urldefrag(url)
            overrides = ConnectionOverrides.of(fragment)
            request = self._request(method, address, form, token, overrides)
            async with asyncio.timeout(overrides.total):
                for attempt in range(1, overrides.retries + 2):
                    reply = reply._replace(attempts=attempt)
                    reply, kind = await self._attempt(request, attempt, cookies)
                    if reply.url == str(request.url):
                        reply = reply._replace(url=address)  # without the parameters of a GET
                    if kind not in overrides.retried:
                        break
        except (ValueError, httpx.InvalidURL):  # the libraries raise these for some URLs
            return Reply(failure="not sent: the URL is invalid")
        except TimeoutError:
            return reply
        return reply

    def _request(
        self,
        method: str,
        url: str,
        form: Mapping[str, str],
        token: str,
        overrides: ConnectionOverrides,
    ) -> httpx.Request:
        """Return the HTTP request, signed with the account's token."""
        form = {**form, "AccountSid": self.account.sid}
        query = urlsplit(url).query
        headers = {"I-Twilio-Idempotency-Token": token, "User-Agent": "TwilioProxy/1.1"}
        if method == "GET":
            url += f"{'&' if query else '?'}{urlencode(form)}"
            form = {}
        else:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        headers["X-Twilio-Signature"] = signature(url, form, self.account.auth_token)
        timeout = httpx.Timeout(overrides.read, connect=overrides.connect)
        body = urlencode(form) or None
        return self.http.build_request(method, url, headers=headers, content=body, timeout=timeout)

    async def _attempt(
        self, request: httpx.Request, attempt: int, cookies: Cookies | None
    ) -> tuple[Reply, str]:
        """Make one attempt; return its result and the kind of its failure."""
        try:
            reply = await self._follow(request, Cookies() if cookies is None else cookies)
        except httpx.HTTPError as error:
            failure = f"no response: {error}" if str(error) else "no response"
            logger.info("webhook to %s: %s", request.url.host, failure)
            failed_to_connect = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            return Reply(failure=failure, attempts=attempt), "ct" if failed_to_connect else "rt"
        return reply._replace(attempts=attempt), f"{(reply.status or 0) // 100}xx"

    async def _follow(self, request: httpx.Request, cookies: Cookies) -> Reply:
        """Return the response, after redirections."""
        reply = Reply()
        for _ in range(MOST_REDIRECTIONS + 1):
            url = str(request.url)
            if obstacle := self.obstacle(url):
                return Reply(failure=f"not sent: {obstacle}")
            if cookies:
                cookies.set_cookie_header(request)
            async with aclosing(await self.http.send(request, stream=True)) as response:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part[: LONGEST_BODY - len(body)]
            if "set-cookie" in response.headers:
                cookies.extract_cookies(response)
            content_type = response.headers.get("content-type", "")
            reply = Reply(response.status_code, content_type, bytes(body), url=url)
            if response.next_request is None:
                break
            request = response.next_request
        return reply


@asynccontextmanager
async def webhooks(account: Account, *, anywhere: bool) -> AsyncGenerator[Webhooks]:
    """Yield the webhooks of an account, which can be sent while the context is open."""
    # a kept connection could close at the moment that it is used again
    limits = httpx.Limits(max_keepalive_connections=0)
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))  # each call has its own
    async with httpx.AsyncClient(
        trust_env=False, verify=_certificates(), limits=limits, cookies=no_cookies
    ) as http:
        yield Webhooks(account, anywhere, http)


@cache
def _certificates() -> ssl.SSLContext:
    """Return the certificates, cached because reading them is slow."""
    return httpx.create_ssl_context(trust_env=False)


def signature(url: str, form: Mapping[str, str], auth_token: str) -> str:
    """Return the `X-Twilio-Signature` of a request with this form in its body."""
    text = url + "".join(name + form[name] for name in sorted(form))
    digest = hmac.digest(auth_token.encode(), text.encode(), "sha1")
    return base64.b64encode(digest).decode()
