"""Notify a webhook, such as one of a chat service, of new approval requests."""

import hmac
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import httpx
import orjson

from calls_mcp.audit.masking import Numbers, masked_text
from calls_mcp.errors import ConfigurationError, StoreUnavailable
from calls_mcp.observability.redaction import one_line
from calls_mcp.settings import ConsoleSettings, Settings
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.records import ApprovalRequest
from calls_mcp.tools.humanize import iso_time
from calls_mcp.twilio.transport import connect_to, connection_failure

if TYPE_CHECKING:
    from calls_mcp.service.background_tasks import BackgroundTasks

_log = logging.getLogger(__name__)

_TIMEOUT = 5.0  # seconds for one attempt
_PAUSES = (1.0, 5.0, 15.0)  # seconds between attempts
_SETTLING = 0.3  # seconds
_LAST = 1.0  # seconds for what is still to be sent when the server stops
_MOST = 100  # notifications that wait
_LONGEST = 300  # characters of the request in a text
_RETRIED = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_FAILURES = (ConfigurationError, TimeoutError, httpx.HTTPError, httpx.InvalidURL)


@dataclass(kw_only=True, slots=True, eq=False)
class ApprovalsWebhook:
    """Sends notifications to a URL, one after the other, in the background.

    They are signed if there is a `secret`. `numbers` says whether phone numbers are masked. A
    notification is sent after `settling` seconds if its request in `storage` is still pending.
    `clock` returns epoch seconds. An attempt may take `timeout` seconds. A failed attempt is
    retried after each of `pauses` (seconds).
    """

    url: str
    storage: Storage
    background: "BackgroundTasks"
    clock: Callable[[], float]
    secret: str = ""
    console: ConsoleSettings | None = None
    numbers: Numbers = "masked"
    pauses: Sequence[float] = _PAUSES
    timeout: float = _TIMEOUT
    settling: float = _SETTLING
    _waiting: deque[ApprovalRequest] = field(
        default_factory=lambda: deque[ApprovalRequest](maxlen=_MOST), init=False
    )
    _delivered: anyio.Event | None = field(default=None, init=False)
    _is_down: bool = field(default=False, init=False)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        storage: Storage,
        background: "BackgroundTasks",
        clock: Callable[[], float],
    ) -> "ApprovalsWebhook | None":
        """Return the webhook of these settings; None if they have none."""
        chosen = settings.approvals
        if chosen.webhook is None:
            return None
        secret = chosen.webhook_secret
        return cls(
            url=chosen.webhook.get_secret_value(),
            storage=storage,
            background=background,
            clock=clock,
            secret=secret.get_secret_value() if secret else "",
            console=settings.console,
            numbers=chosen.numbers,
        )

    def notify(self, request: ApprovalRequest) -> None:
        """Queue a notification. If the queue is full, the oldest one is dropped."""
        self._waiting.append(request)
        if self._delivered is None:
            self._delivered = anyio.Event()
            self.background.start(partial(self._deliver, self._delivered))

    async def idle(self) -> None:
        """Wait until the queue is empty."""
        if self._delivered is not None:
            await self._delivered.wait()

    async def aclose(self) -> None:
        """Wait a moment for the notifications in the queue."""
        if not self._is_down:
            with anyio.move_on_after(_LAST, shield=True):
                await self.idle()

    async def _deliver(self, delivered: anyio.Event) -> None:
        try:
            while self._waiting:
                # Ending a call in the console creates and approves a request: don't notify of it.
                await anyio.sleep(self.settling)
                request = self._waiting.popleft()
                if await self._is_pending(request):
                    await self._send_with_retries(request)
        finally:
            self._delivered = None
            delivered.set()

    async def _is_pending(self, request: ApprovalRequest) -> bool:
        try:
            found = await self.storage.find_request(request.identifier)
            return found is not None and not (
                found.decision or found.has_expired(await self.storage.now())
            )
        except StoreUnavailable:
            return True

    async def _send_with_retries(self, request: ApprovalRequest) -> None:
        body = orjson.dumps(self._content(request))
        failure, may_retry = await self._send(body)
        for pause in () if self._is_down else self.pauses:
            if not (failure and may_retry):
                break
            await anyio.sleep(pause)
            failure, may_retry = await self._send(body)
        if failure and not self._is_down:
            _log.warning(
                "Cannot notify %s of an approval request: %s. Check CALLS_MCP_APPROVALS_WEBHOOK. "
                "Further failures are not logged until a notification succeeds.",
                urlsplit(self.url).hostname,  # the rest may be secret
                failure,
            )
        elif self._is_down and not failure:
            _log.warning(
                "Notifications of approval requests reach %s again.", urlsplit(self.url).hostname
            )
        self._is_down = bool(failure)

    async def _send(self, body: bytes) -> tuple[str, bool]:
        """Return why a notification failed, or an empty string; and whether a retry may help."""
        status = await _exchange(lambda: self._request(body), self.url, self.timeout)
        if isinstance(status, str):
            return status, True
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return "", False
        is_server_error = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return f"status {status}", status in _RETRIED or is_server_error

    def _request(self, body: bytes) -> httpx.Request:
        headers = {"Content-Type": "application/json", "User-Agent": "calls-mcp"}
        if self.secret:
            now = f"{self.clock():.0f}"
            signed = f"{now}.".encode() + body
            digest = hmac.new(self.secret.encode(), signed, "sha256").hexdigest()
            headers |= {"X-Calls-Mcp-Timestamp": now, "X-Calls-Mcp-Signature": f"sha256={digest}"}
        extensions = {"timeout": httpx.Timeout(self.timeout).as_dict()}
        return httpx.Request("POST", self.url, content=body, headers=headers, extensions=extensions)

    def _content(self, request: ApprovalRequest) -> dict[str, str | None]:
        url = self.console.approval_page(request.identifier) if self.console else None
        expires_at = iso_time(request.expires_at)
        where = f" Decide at {url}" if url else " Decide in the console or with calls-mcp approvals"
        summary = self._quoted(request.preview.headline)
        requester = self._quoted(request.binding.principal)
        return {
            "text": f"Approval needed: {summary}. Requested by {requester}.{where} before "
            f"{expires_at}.",
            "id": request.identifier,
            "url": url,
            "expires_at": expires_at,
        }

    def _quoted(self, text: str) -> str:
        """Return a text that a chat shows as it is: no mentions, links or markup."""
        masked = one_line(masked_text(text, self.numbers), _LONGEST).replace("`", "'")
        escaped = masked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"`{escaped}`"


async def probe(url: str) -> int | str:
    """Return the status of a HEAD request to a webhook, or why there was no response."""
    extensions = {"timeout": httpx.Timeout(_TIMEOUT).as_dict()}
    headers = {"User-Agent": "calls-mcp"}
    build = partial(httpx.Request, "HEAD", url, headers=headers, extensions=extensions)
    return await _exchange(build, url, _TIMEOUT)


async def _exchange(build: Callable[[], httpx.Request], url: str, seconds: float) -> int | str:
    """Send a request to `url`, and return the status or why there is none within `seconds`."""
    try:
        with anyio.fail_after(seconds):
            async with connect_to(url) as transport:
                response = await transport.handle_async_request(build())
                await response.aclose()
    except _FAILURES as failure:
        known = connection_failure(failure, url)
        return known.words if known else "no answer in time"
    return response.status_code
