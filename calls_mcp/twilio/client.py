"""Send requests to the Calls API: attempts, deadlines, and what each failure means.

A read is retried after a failure that may be transient. A change is retried only if it certainly
was not processed: the request was never sent, or the response was 429. These errors are
`retryable`, and so is `NotAttempted`, which is not retried here.
"""

import time
import zlib
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Protocol, cast
from urllib.parse import urlencode

import anyio
import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tenacity.stop import stop_after_attempt, stop_before_delay
from tenacity.wait import wait_exponential_jitter

from calls_mcp import __version__
from calls_mcp.errors import InvocationError, NotAttempted
from calls_mcp.observability import telemetry
from calls_mcp.settings import Access
from calls_mcp.tools.call_summary import CallSummary
from calls_mcp.twilio.circuit_breaker import CircuitBreaker, CircuitState
from calls_mcp.twilio.requests import Request
from calls_mcp.twilio.responses import (
    Response,
    no_free_connection,
    no_usable_response,
    not_attempted,
    not_sent,
    read_call,
    require_usable,
)
from calls_mcp.twilio.transport import Connections, connection_failure

_ATTEMPTS = 4
_CONCURRENCY = 16  # reads, and as many changes, so that stalled reads do not delay changes
_BACK_OFF = wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.2)
_AHEAD = 0.02  # seconds before the caller gives up, so that the error here says what was sent
_LARGEST_BODY = 16 * 2**20  # bytes; a page of 1000 calls has about 2 MB
_GZIP_OR_ZLIB = 47  # zlib's wbits


class _HasMethod(Protocol):
    method: bytes


@dataclass(slots=True, eq=False)
class _Exchange:
    """A request that must be answered by `deadline` (anyio's clock).

    `is_admitted` says whether the circuit breaker has let it through, and `may_have_left` whether
    the current attempt may have left this machine.
    """

    request: Request
    started: float
    deadline: float
    is_urgent: bool
    spans: telemetry.UpstreamRequest
    is_admitted: bool = False
    may_have_left: bool = False

    @property
    def seconds_left(self) -> float:
        return self.deadline - anyio.current_time()

    @property
    def timed_out(self) -> str:
        """The reason for an error if there is no response in time."""
        limit = f"{round(max(self.deadline - self.started, 0), 1):g} s"
        if self.may_have_left:
            return f"no response within {limit}"
        return f"the request could not be sent within {limit}"

    async def trace(self, event: str, info: Mapping[str, object]) -> None:
        """Handle a trace event of httpx. A proxy's CONNECT contains nothing of the request."""
        if event == "http11.send_request_headers.started":
            self.may_have_left = cast("_HasMethod", info["request"]).method != b"CONNECT"

    def error(self, reason: str) -> InvocationError:
        """Return the error for a request without a response."""
        return no_usable_response(self.request, reason) if self.may_have_left else not_sent(reason)


class TwilioClient:
    """A client of the Calls API for one account. `clock` returns monotonic seconds.

    Raises:
        ConfigurationError: The environment names certificates or a proxy that can't be used.
    """

    def __init__(self, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self._access = access
        self._secrets = access.secrets  # computed once, because each response needs them
        self._connections = Connections(access)
        self._circuit = CircuitBreaker(clock)
        telemetry.observe_circuit(self._circuit)
        self._slots = {kind: anyio.Semaphore(_CONCURRENCY) for kind in ("reads", "changes")}
        self._deadline = inf
        self._scopes: set[anyio.CancelScope] = set()
        credentials = f"{access.username}:{access.password}".encode()
        self._headers = httpx.Headers(  # which masks the credentials in its representation
            {
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "Authorization": f"Basic {b64encode(credentials).decode()}",
                "User-Agent": f"calls-mcp/{__version__}",
            }
        )
        self._timeout = httpx.Timeout(access.timeout).as_dict()

    @property
    def circuit(self) -> CircuitState:
        """The state of the circuit breaker."""
        return self._circuit.state

    async def aclose(self) -> None:
        """Close the connections."""
        telemetry.forget_circuit(self._circuit)
        await self._connections.aclose()

    def finish_by(self, deadline: float) -> None:
        """Give up all requests without a response at `deadline` (anyio's clock)."""
        self._deadline = min(self._deadline, deadline)
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, deadline)

    def require_ready(self, request: Request) -> None:
        """Raise if the request would not be sent now.

        Raises:
            NotAttempted: The circuit is open.
        """
        if not request.is_urgent:
            self._circuit.require_not_open()

    async def send(
        self, request: Request, deadline: float = inf, *, is_urgent: bool = False
    ) -> Response:
        """Send `request`, with retries, and return the API's response, which is a success.

        All attempts end at `deadline` (anyio's clock) or after the configured deadline, whichever
        is first. An urgent request is sent even if the circuit is open or all slots are in use.

        Raises:
            InvocationError: The request failed; `errors.py` has all kinds.
        """
        is_urgent = is_urgent or request.is_urgent
        exchange = self._exchange(request, deadline, is_urgent=is_urgent)
        with (
            self._circuit.guard(is_urgent=is_urgent) as is_trial,
            exchange.spans.span(),
        ):
            exchange.is_admitted = is_trial or is_urgent
            attempts = AsyncRetrying(
                retry=retry_if_exception(_is_worth_another),
                wait=_wait,
                stop=stop_after_attempt(1 if is_trial else _ATTEMPTS)
                | stop_before_delay(exchange.seconds_left - _AHEAD),
                sleep=partial(self._pause, exchange),
                reraise=True,
            )
            return await attempts(self._attempt, exchange)

    async def read_call(
        self, request: Request, deadline: float = inf, *, is_urgent: bool = False
    ) -> CallSummary:
        """Send `request` like `send`, and return the call in the response.

        Raises:
            InvocationError: The request failed, or the response is about another call.
        """
        return read_call(request, await self.send(request, deadline, is_urgent=is_urgent))

    async def probe(self, request: Request) -> Response:
        """Send `request` once and return the response, whatever its status.

        Raises:
            InvocationError: There is no response.
        """
        return await self._receive(self._exchange(request, inf, is_urgent=True))

    @contextmanager
    def cancel_at(self, deadline: float) -> Generator[None]:
        """Cancel the `with` block at `deadline` (anyio's clock) or at that of `finish_by`."""
        with anyio.CancelScope(deadline=min(deadline, self._deadline)) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    def _exchange(self, request: Request, deadline: float, *, is_urgent: bool) -> _Exchange:
        started = anyio.current_time()
        deadlines = (
            deadline,
            started + self._access.deadline,
            anyio.current_effective_deadline() - _AHEAD,
            self._deadline,
        )
        spans = telemetry.UpstreamRequest(request.method, request.effect)
        return _Exchange(request, started, min(deadlines), is_urgent, spans)

    async def _attempt(self, exchange: _Exchange) -> Response:
        async with self._slot(exchange):
            exchange.may_have_left = False  # a retried attempt was not processed
            if min(exchange.deadline, self._deadline) <= anyio.current_time():
                raise not_attempted(exchange.timed_out)
            if not exchange.is_admitted:  # others may have failed while it waited
                self._circuit.require_closed()
                exchange.is_admitted = True
            exchange.may_have_left = self._access.app is not None  # an in-process request leaves
            with exchange.spans.attempt_span():
                response = await self._receive(exchange)
                exchange.spans.status = response.status
                require_usable(exchange.request, response, self._secrets)
                return response

    @asynccontextmanager
    async def _slot(self, exchange: _Exchange) -> AsyncGenerator[None]:
        """Hold one of the slots for requests of this kind.

        The slots limit the number of connections.
        """
        if exchange.is_urgent:
            yield
            return
        kind = "reads" if exchange.request.effect == "read" else "changes"
        slots = self._slots[kind]
        try:
            slots.acquire_nowait()
        except anyio.WouldBlock:
            await self._queue(kind, max(0.0, exchange.seconds_left / 2))
        try:
            yield
        finally:
            slots.release()

    async def _queue(self, kind: str, seconds: float) -> None:
        """Wait `seconds` for a slot, which must leave time to send the request."""
        with self.cancel_at(anyio.current_time() + seconds):
            await self._slots[kind].acquire()
            return
        raise no_free_connection(kind, _CONCURRENCY, round(seconds, 1))

    async def _pause(self, exchange: _Exchange, seconds: float) -> None:
        with self.cancel_at(exchange.deadline):
            await anyio.sleep(seconds)

    async def _receive(self, exchange: _Exchange) -> Response:
        try:
            with self.cancel_at(exchange.deadline):
                async with self._connections.transport() as transport:
                    response = await transport.handle_async_request(self._build(exchange))
                    try:
                        body = await _read(exchange.request, response)
                    finally:
                        await response.aclose()
                return Response.parse(response.status_code, response.headers, body)
        except httpx.HTTPError as broken:
            failure = connection_failure(broken, self._access.base_url)
            why = f": {failure.words}" if failure else ""
            raise exchange.error(f"the connection failed{why}") from broken
        raise exchange.error(exchange.timed_out)

    def _build(self, exchange: _Exchange) -> httpx.Request:
        request = exchange.request
        query = f"?{urlencode(request.query)}" if request.query else ""
        built = httpx.Request(
            request.method,
            f"{self._access.base_url}{request.path}{query}",
            headers=self._headers,
            content=urlencode(request.form).encode() if request.method == "POST" else None,
            extensions={"timeout": self._timeout, "trace": exchange.trace},
        )
        if request.method == "POST":
            built.headers["Content-Type"] = "application/x-www-form-urlencoded"
        built.headers.update(telemetry.trace_headers())
        return built


class ClientPool:
    """Keeps one client for each access, so that all users of an account share a circuit breaker.

    `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deadline = inf
        self._clients: dict[Access, TwilioClient] = {}

    def client(self, access: Access) -> TwilioClient:
        """Return the client for this access."""
        if access not in self._clients:
            self._clients[access] = TwilioClient(access, self._clock)
            self._clients[access].finish_by(self._deadline)
        return self._clients[access]

    def finish_by(self, deadline: float) -> None:
        """Give up all requests without a response at `deadline` (anyio's clock)."""
        self._deadline = deadline
        for client in self._clients.values():
            client.finish_by(deadline)

    async def aclose(self) -> None:
        """Close all clients."""
        await self.close_all_except(())

    async def close_all_except(self, used: Collection[Access]) -> None:
        """Close the clients of all other accesses."""
        unused = [self._clients.pop(access) for access in self._clients.keys() - {*used}]
        for client in unused:
            await client.aclose()


async def _read(request: Request, response: httpx.Response) -> bytes:
    """Return the decoded body. httpx's decoding has no limit on the size of a chunk."""
    is_packed = response.headers.get("Content-Encoding", "").lower() in ("gzip", "deflate")
    packed = zlib.decompressobj(_GZIP_OR_ZLIB) if is_packed else None
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += packed.decompress(chunk, _LARGEST_BODY + 1 - len(body)) if packed else chunk
            if len(body) > _LARGEST_BODY:
                raise no_usable_response(request, "the API's response was too large")
        if packed and body and not packed.eof:
            raise zlib.error  # noqa: TRY301
    except (httpx.HTTPError, zlib.error) as garbled:
        reason = "the API's response was incomplete or could not be decoded"
        raise no_usable_response(request, reason) from garbled
    return bytes(body)


def _is_worth_another(error: BaseException) -> bool:
    is_retryable = isinstance(error, InvocationError) and error.retryable
    return is_retryable and not isinstance(error, NotAttempted)


def _wait(state: RetryCallState) -> float:
    """Return the exponential back-off with jitter, or the API's Retry-After if it is longer."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, InvocationError) else None
    return max(_BACK_OFF(state), asked or 0)
