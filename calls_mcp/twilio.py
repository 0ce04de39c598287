"""`Request` → payload: the Calls API over HTTP, and what each failure of it means.

A read is retried whatever went wrong. A change is retried only where it surely was not processed:
the request never left, or the answer was 429. Those are just the errors that are `retryable`.
"""

from collections.abc import Mapping
from http import HTTPStatus
from math import inf
from urllib.parse import urlencode

import anyio
import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tenacity.stop import stop_after_attempt, stop_before_delay
from tenacity.wait import wait_exponential_jitter

from calls_mcp import __version__
from calls_mcp.catalog import Json
from calls_mcp.errors import InvocationError
from calls_mcp.failures import Answer, Reply, lost, refused, unsent
from calls_mcp.settings import Access
from calls_mcp.wire import Request

_ATTEMPTS = 4
_LARGEST_BODY = 16 * 2**20  # bytes; a page of 1000 calls has about 2 MB
_POOL = httpx.Limits(max_connections=50, max_keepalive_connections=20, keepalive_expiry=20)
_BACK_OFF = wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.2)


class TwilioClient:
    """One pool of connections to the Calls API."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._http = httpx.AsyncClient(
            auth=httpx.BasicAuth(access.username, access.password),
            headers={"Accept": "application/json", "User-Agent": f"calls-mcp/{__version__}"},
            timeout=access.timeout,
            limits=_POOL,
            follow_redirects=False,
            trust_env=not access.is_local,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, request: Request, until: float | None = None) -> Reply:
        """The API's answer to `request`.

        All attempts at it end at `until` (by anyio's clock), or else by the deadline.

        Raises:
            InvocationError: As the kind of failure demands; see `failures`.
        """
        departure, begun = _Departure(), anyio.current_time()
        seconds = min(self._access.deadline, inf if until is None else until - begun)
        try:
            with anyio.fail_after(seconds):  # not asyncio's, which doesn't mix with anyio's
                return await self._send_until_answered(request, departure, seconds)
        except TimeoutError as late:
            within = f"no answer within {round(max(seconds, 0), 1):g} s"
            raise _without_answer(request, departure, within) from late

    async def _send_until_answered(
        self, request: Request, departure: "_Departure", seconds: float
    ) -> Reply:
        attempts = AsyncRetrying(
            retry=retry_if_exception(_is_retryable),
            wait=_wait,
            stop=stop_after_attempt(_ATTEMPTS) | stop_before_delay(seconds),
            reraise=True,
        )
        return await attempts(self._exchange, request, departure)

    async def _exchange(self, request: Request, departure: "_Departure") -> Reply:
        departure.happened = False  # an earlier attempt was surely not carried out
        try:
            answer = await self._ask(request, departure)
        except httpx.DecodingError as garbled:
            raise lost(request, "the API's answer could not be decoded") from garbled
        except httpx.RequestError as broken:
            what = f"the connection failed ({type(broken).__name__})"
            raise _without_answer(request, departure, what) from broken
        departure.happened = not answer.is_refusal
        if not answer.is_success:
            raise refused(request, answer, secrets=self._access.secrets)
        return Reply(_payload(request, answer), answer.status, answer.request_id)

    async def _ask(self, request: Request, departure: "_Departure") -> Answer:
        query = f"?{urlencode(request.query)}" if request.query else ""
        form = urlencode(request.form) if request.method == "POST" else None
        streaming = self._http.stream(
            request.method,
            f"{self._access.base_url}{request.path}{query}",
            content=form,
            headers={"Content-Type": "application/x-www-form-urlencoded"} if form else None,
            extensions={"trace": departure.trace},
        )
        async with streaming as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _LARGEST_BODY:
                    raise lost(request, "the API's answer was too large to read")
            headers = response.headers
            request_id = headers.get("Twilio-Request-Id", "")
            return Answer(response.status_code, headers.get("Retry-After"), bytes(body), request_id)


class _Departure:
    """Notes whether a request may have left this machine."""

    def __init__(self) -> None:
        self.happened = False

    async def trace(self, event: str, _: Mapping[str, object]) -> None:
        if event.endswith("send_request_headers.started"):
            self.happened = True


def _without_answer(request: Request, departure: _Departure, what: str) -> InvocationError:
    return lost(request, what) if departure.happened else unsent(what)


def _payload(request: Request, answer: Answer) -> Mapping[str, Json]:
    if request.effect == "delete" and answer.status == HTTPStatus.NO_CONTENT:
        return {}
    payload = answer.json()
    if payload is None or request.effect == "delete":
        error = lost(request, f"the API answered {answer.status}, but with nothing readable")
        error.status = answer.status
        raise error
    return payload


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, InvocationError) and error.retryable


def _wait(state: RetryCallState) -> float:
    """The API's Retry-After if it gave one, else exponential back-off with jitter."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, InvocationError) else None
    return max(_BACK_OFF(state), asked or 0)
