"""Send requests to the Calls API: attempts, deadlines, and what each failure means.

A read is retried whatever went wrong. A change is retried only if it surely was not processed:
the request never left, or the answer was 429. Those are just the errors that are `retryable`.
"""

import time
import zlib
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from math import inf
from typing import Protocol, cast
from urllib.parse import urlencode

import anyio
import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tenacity.stop import stop_after_attempt, stop_before_delay
from tenacity.wait import wait_exponential_jitter

from calls_mcp import __version__
from calls_mcp.errors import InvocationError, Withheld
from calls_mcp.observability import telemetry
from calls_mcp.settings import Access
from calls_mcp.tools.catalog import Json
from calls_mcp.twilio.circuit_breaker import Circuit, CircuitState
from calls_mcp.twilio.requests import Request
from calls_mcp.twilio.responses import Answer, Reply, crowded, lost, refused, unsent, withheld
from calls_mcp.twilio.transport import connect, explain

_ATTEMPTS = 4
_AT_ONCE = 16  # reads, and as many changes
_BACK_OFF = wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.2)
_AHEAD = 0.02  # seconds before the caller gives up, so that it is said here what was sent
_LARGEST_BODY = 16 * 2**20  # bytes; a page of 1000 calls has about 2 MB
_GZIP_OR_ZLIB = 47  # zlib's wbits


class _HasMethod(Protocol):
    method: bytes


@dataclass(slots=True, eq=False)
class _Sending:
    """A request on its way, by anyio's clock; notes whether it may have left this machine."""

    request: Request
    begun: float
    until: float
    is_pressing: bool
    is_begun: bool = False
    has_left: bool = False

    @property
    def left(self) -> float:
        """Seconds until it must be answered."""
        return self.until - anyio.current_time()

    @property
    def lateness(self) -> str:
        """What is said if there is no answer in time."""
        return f"no answer within {round(max(self.until - self.begun, 0), 1):g} s"

    async def trace(self, event: str, info: Mapping[str, object]) -> None:
        """Take note of an event of httpx's. A proxy's CONNECT says nothing of the request."""
        if event == "http11.send_request_headers.started":
            self.has_left = cast("_HasMethod", info["request"]).method != b"CONNECT"

    def failed(self, what: str) -> InvocationError:
        """The error for a request without an answer."""
        return lost(self.request, what) if self.has_left else unsent(what)


class TwilioClient:
    """Connections to the Calls API for one account. `clock` is monotonic, in seconds.

    Raises:
        ConfigurationError: The environment names certificates or a proxy that can't be used.
    """

    def __init__(self, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self._access = access
        self._connections = connect(access)
        self._circuit = Circuit(clock)
        self._places = {kind: anyio.Semaphore(_AT_ONCE) for kind in ("reads", "changes")}
        self._ends = inf
        self._waits: set[anyio.CancelScope] = set()
        pair = f"{access.username}:{access.password}".encode()
        self._headers = httpx.Headers(  # which masks the credentials in its representation
            {
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "Authorization": f"Basic {b64encode(pair).decode()}",
                "User-Agent": f"calls-mcp/{__version__}",
            }
        )
        self._timeout = httpx.Timeout(access.timeout).as_dict()

    @property
    def circuit(self) -> CircuitState:
        """The state of the circuit breaker: unless closed, the API keeps failing."""
        return self._circuit.state

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connections.aclose()

    def end_by(self, moment: float) -> None:
        """Have everything answered, or given up, by `moment` (by anyio's clock)."""
        self._ends = min(self._ends, moment)
        for wait in self._waits:
            wait.deadline = min(wait.deadline, moment)

    def require_ready(self, request: Request) -> None:
        """Return if the request would be sent now.

        Raises:
            Withheld: It would be held back, because the API keeps failing.
        """
        if not request.is_pressing:
            self._circuit.check()

    async def send(
        self, request: Request, until: float | None = None, *, is_pressing: bool = False
    ) -> Reply:
        """Return the API's answer to `request`.

        All attempts at it end at `until` (by anyio's clock), or else by the deadline. If
        `is_pressing`, it is sent even if the API keeps failing or is busy with other requests.

        Raises:
            InvocationError: As the kind of failure demands; see `errors`.
        """
        is_pressing = is_pressing or request.is_pressing
        sending = self._sending(request, until, is_pressing=is_pressing)
        with (
            self._circuit.guarding(is_pressing=is_pressing) as is_trial,
            telemetry.upstream(request.method, request.effect),
        ):
            sending.is_begun = is_trial or is_pressing
            attempts = AsyncRetrying(
                retry=retry_if_exception(_is_worth_another),
                wait=_wait,
                stop=stop_after_attempt(1 if is_trial else _ATTEMPTS)
                | stop_before_delay(sending.left - _AHEAD),
                sleep=partial(self._pause, sending),
                reraise=True,
            )
            return await attempts(self._attempt, sending)

    async def ask_once(self, request: Request) -> Answer:
        """Return the answer to a single attempt at `request`, whatever it says.

        Raises:
            InvocationError: There is none.
        """
        return await self._answer(self._sending(request, None, is_pressing=True))

    @contextmanager
    def in_time(self, until: float) -> Generator[None]:
        """Cancel what is done in here at `until` (by anyio's clock), or when all has to end."""
        with anyio.CancelScope(deadline=min(until, self._ends)) as wait:
            self._waits.add(wait)
            try:
                yield
            finally:
                self._waits.discard(wait)

    def _sending(self, request: Request, until: float | None, *, is_pressing: bool) -> _Sending:
        begun = anyio.current_time()
        ends = (
            begun + self._access.deadline if until is None else until,
            begun + self._access.deadline,
            anyio.current_effective_deadline() - _AHEAD,
            self._ends,
        )
        return _Sending(request, begun, min(ends), is_pressing)

    async def _attempt(self, sending: _Sending) -> Reply:
        request = sending.request
        async with self._place(sending):
            # An earlier attempt was surely not carried out. A request inside this process leaves.
            sending.has_left = self._access.app is not None
            if min(sending.until, self._ends) <= anyio.current_time():
                raise withheld(sending.lateness)
            if not sending.is_begun:  # others may have failed while it waited; retries go on
                self._circuit.check_again()
                sending.is_begun = True
            with telemetry.attempt(request.method, request.effect) as attempt:
                answer = await self._answer(sending)
                if not answer.is_success:
                    raise refused(request, answer, secrets=self._access.secrets)
                attempt.status = answer.status
                return Reply(_payload(request, answer), answer.status, answer.request_id)

    @asynccontextmanager
    async def _place(self, sending: _Sending) -> AsyncGenerator[None]:
        """Wait for a place among the requests of its kind, for half of the time that is left."""
        if sending.is_pressing:
            yield
            return
        kind = "reads" if sending.request.effect == "read" else "changes"
        places = self._places[kind]
        try:
            places.acquire_nowait()
        except anyio.WouldBlock:
            await self._queue(places, kind, max(0.0, sending.left / 2))
        try:
            yield
        finally:
            places.release()

    async def _queue(self, places: anyio.Semaphore, kind: str, seconds: float) -> None:
        with self.in_time(anyio.current_time() + seconds):
            await places.acquire()
            return
        raise crowded(kind, _AT_ONCE, round(seconds, 1))

    async def _pause(self, sending: _Sending, seconds: float) -> None:
        with self.in_time(sending.until):
            await anyio.sleep(seconds)

    async def _answer(self, sending: _Sending) -> Answer:
        try:
            with self.in_time(sending.until):
                response = await self._connections.handle_async_request(self._built(sending))
                try:
                    body = await _read(sending.request, response)
                finally:
                    await response.aclose()
                told = response.headers
                request_id, date = told.get("Twilio-Request-Id", ""), told.get("Date", "")
                wait = told.get("Retry-After")
                return Answer(response.status_code, wait, body, request_id, date)
        except httpx.HTTPError as broken:
            failure = explain(broken, self._access.base_url)
            why = f": {failure.words}" if failure else ""
            raise sending.failed(f"the connection failed{why}") from broken
        raise sending.failed(sending.lateness)

    def _built(self, sending: _Sending) -> httpx.Request:
        request = sending.request
        query = f"?{urlencode(request.query)}" if request.query else ""
        built = httpx.Request(
            request.method,
            f"{self._access.base_url}{request.path}{query}",
            headers=self._headers,
            content=urlencode(request.form).encode() if request.method == "POST" else None,
            extensions={"timeout": self._timeout, "trace": sending.trace},
        )
        if request.method == "POST":
            built.headers["Content-Type"] = "application/x-www-form-urlencoded"
        built.headers.update(telemetry.headers())
        return built


async def _read(request: Request, response: httpx.Response) -> bytes:
    """Read the body. httpx's own decoding has no limit to what a chunk may swell to."""
    is_packed = response.headers.get("Content-Encoding", "").lower() in ("gzip", "deflate")
    packed = zlib.decompressobj(_GZIP_OR_ZLIB) if is_packed else None
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += packed.decompress(chunk, _LARGEST_BODY + 1 - len(body)) if packed else chunk
            if len(body) > _LARGEST_BODY:
                raise lost(request, "the API's answer was too large to read")
        if packed and body and not packed.eof:
            raise zlib.error  # noqa: TRY301
    except (httpx.HTTPError, zlib.error) as garbled:
        raise lost(request, "the API's answer broke off or could not be decoded") from garbled
    return bytes(body)


def _payload(request: Request, answer: Answer) -> Mapping[str, Json]:
    if request.effect == "delete" and answer.status == HTTPStatus.NO_CONTENT:
        return {}
    payload = answer.json()
    if payload is None or request.effect == "delete":
        error = lost(request, f"the API answered {answer.status}, but with nothing readable")
        error.status = answer.status
        raise error
    return payload


def _is_worth_another(error: BaseException) -> bool:
    is_retryable = isinstance(error, InvocationError) and error.retryable
    return is_retryable and not isinstance(error, Withheld)


def _wait(state: RetryCallState) -> float:
    """The API's Retry-After if it gave one, else exponential back-off with jitter."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, InvocationError) else None
    return max(_BACK_OFF(state), asked or 0)
