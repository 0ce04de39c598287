"""`Request` → payload: the Calls API over HTTP, and what each failure of it means.

A read is retried whatever went wrong. A change is retried only where it surely was not processed:
the request never left, or the answer was 429. Those are just the errors that are `retryable`.
Nothing new is sent while the API keeps failing (see `breaker`), but for what can't wait.
"""

import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from math import inf

import aiohttp
import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tenacity.stop import stop_after_attempt, stop_before_delay
from tenacity.wait import wait_exponential_jitter

from calls_mcp import telemetry
from calls_mcp.breaker import Breaker, BreakerState
from calls_mcp.catalog import Json
from calls_mcp.dispatch import Dispatch, Lane, lane_of
from calls_mcp.errors import InvocationError
from calls_mcp.exchange import Http
from calls_mcp.failures import Answer, Reply, crowded, lost, refused, unsent, withheld
from calls_mcp.readahead import ReadAhead
from calls_mcp.settings import Access
from calls_mcp.wire import Request

_ATTEMPTS = 4
_LANE_WIDTH = 16  # requests at a time
_BACK_OFF = wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.2)
_AHEAD = 0.02  # seconds before whoever waits gives up, so that it is said here what was sent


class TwilioClient:
    """Connections to the Calls API, some for each lane.

    `clock` is monotonic, in seconds; `on_change` is called when something may have been changed.
    """

    def __init__(
        self,
        access: Access,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._access = access
        self._circuit = Breaker(clock)
        self._ends = inf
        self._under_way: set[Dispatch] = set()
        self._searches: set[anyio.CancelScope] = set()
        self._lanes = {lane: anyio.Semaphore(_LANE_WIDTH) for lane in Lane}
        self._http = Http(access)
        self._ahead = ReadAhead(self._read_ahead, clock)
        self._on_change = on_change or self._ahead.drop

    @property
    def circuit(self) -> BreakerState:
        """The state of the circuit breaker."""
        return self._circuit.state

    @property
    def is_resting(self) -> bool:
        """Whether everything is refused for now, because the API keeps failing."""
        return self._circuit.is_resting

    async def aclose(self) -> None:
        """Close the connections."""
        self.forget_pages()
        await self._http.aclose()

    def end_by(self, moment: float) -> None:
        """Have everything answered, or given up, by `moment` (by anyio's clock)."""
        self._ends = min(self._ends, moment)
        for dispatch in self._under_way:
            dispatch.end_by(moment)
        for scope in self._searches:
            scope.deadline = min(scope.deadline, moment)

    async def require_ready(self, request: Request, until: float) -> None:
        """Do nothing if a change could be sent now, as far as is known or a read can tell.

        Raises:
            Withheld: It would be held back.
        """
        await self._require_ready(self._dispatch(request, lane_of(request), until))

    async def send(self, request: Request, until: float | None = None) -> Reply:
        """The API's answer to `request`.

        All attempts at it end at `until` (by anyio's clock), or else by the deadline.

        Raises:
            InvocationError: As the kind of failure demands; see `failures`.
        """
        try:
            return await self._send(self._dispatch(request, lane_of(request), until))
        finally:
            if request.effect != "read":
                self._on_change()

    async def look(self, request: Request, until: float | None = None) -> Reply:
        """Like `send`, to find out what became of a change: tried even if the API keeps failing.

        Raises:
            InvocationError: As with `send`.
        """
        return await self._send(self._dispatch(request, Lane.LOOKS, until))

    async def ask_once(self, request: Request) -> Answer:
        """The answer to a single attempt at `request`, whatever it says.

        Raises:
            InvocationError: There is none.
        """
        return await self._answer(self._dispatch(request, lane_of(request)))

    def expects(self, page: Request) -> bool:
        """Whether this page follows, without a pause, what was read last of a list."""
        return self._ahead.expects(page)

    async def expect(self, page: Request, *, read_now: bool) -> None:
        """Be ready for the next page of a list, and `read_now`, unless others need the room."""
        has_room = self._lanes[Lane.LISTS].value > _LANE_WIDTH // 2
        is_well = not self._circuit.is_open
        await self._ahead.expect(page, read_now=read_now and has_room and is_well)

    def forget_pages(self) -> None:
        """Read the next page of each list anew when it is asked for."""
        self._ahead.drop()

    @contextmanager
    def searching(self, until: float) -> Generator[None]:
        """Find out in here what became of a change, until then (by anyio's clock) and no longer."""
        with anyio.CancelScope(deadline=min(until, self._ends)) as scope:
            self._searches.add(scope)
            try:
                yield
            finally:
                self._searches.discard(scope)
                self._on_change()

    def _dispatch(self, request: Request, lane: Lane, until: float | None = None) -> Dispatch:
        begun = anyio.current_time()
        ends = (
            begun + self._access.deadline,
            anyio.current_effective_deadline() - _AHEAD,
            self._ends,
        )
        return Dispatch(request, lane, begun, min(*ends, inf if until is None else until))

    async def _send(self, dispatch: Dispatch) -> Reply:
        attempts = AsyncRetrying(
            retry=retry_if_exception(dispatch.is_worth_another),
            wait=_wait,
            stop=stop_after_attempt(_ATTEMPTS) | stop_before_delay(dispatch.left - _AHEAD),
            sleep=dispatch.pause,
            reraise=True,
        )
        request = dispatch.request
        await self._require_ready(dispatch)
        with (
            self._tracked(dispatch),
            telemetry.upstream(request.method, request.effect),
            self._circuit.observed(counts=not dispatch.is_look),
        ):
            return await attempts(self._attempt, dispatch)

    async def _read_ahead(self, page: Request) -> Reply:
        """The first attempt at a page, made before it is asked for; it counts only once it is."""
        dispatch = self._dispatch(page, Lane.LISTS)
        with self._tracked(dispatch):
            return await self._attempt_now(dispatch)

    @contextmanager
    def _tracked(self, dispatch: Dispatch) -> Generator[None]:
        self._under_way.add(dispatch)
        try:
            yield
        finally:
            self._under_way.discard(dispatch)

    async def _attempt(self, dispatch: Dispatch) -> Reply:
        return await self._ahead.take(dispatch.request) or await self._attempt_now(dispatch)

    async def _attempt_now(self, dispatch: Dispatch) -> Reply:
        dispatch.has_left = False  # an earlier attempt was surely not carried out
        async with self._place(dispatch):
            if dispatch.left <= 0:
                raise withheld(dispatch.lateness)
            self._admit(dispatch)
            return await self._try(dispatch)

    def _admit(self, dispatch: Dispatch) -> None:
        """Ask the circuit once more, since others may have failed meanwhile. Retries go on."""
        if not (dispatch.is_admitted or dispatch.is_pressing):
            dispatch.is_probe = self._circuit.is_open
            self._circuit.admit(may_probe=dispatch.request.effect == "read")
        dispatch.is_admitted = True

    async def _try(self, dispatch: Dispatch) -> Reply:
        with telemetry.attempt(dispatch.request.method, dispatch.request.effect) as attempt:
            reply = await self._exchange(dispatch)
            attempt.status = reply.status
        return reply

    async def _require_ready(self, dispatch: Dispatch) -> None:
        if dispatch.is_pressing:
            return
        self._circuit.check()
        if self._circuit.is_open and dispatch.request.effect != "read":
            await self._probe(dispatch)
            self._circuit.check()

    async def _probe(self, change: Dispatch) -> None:
        """Find out by a read whether the API answers: a change is too good to be tried on that."""
        is_new = change.request.effect == "place"
        read = change.request.as_search() if is_new else change.request.as_fetch()
        probe = self._dispatch(read, lane_of(read), change.until)
        with suppress(InvocationError):  # if it fails, the circuit knows
            await self._send(probe)

    @asynccontextmanager
    async def _place(self, dispatch: Dispatch) -> AsyncGenerator[None]:
        """A place in the lane, as soon as there is one: in time to get an answer, too."""
        lane = self._lanes[dispatch.lane]
        try:
            lane.acquire_nowait()
        except anyio.WouldBlock:
            await _queue(lane, dispatch)
        try:
            yield
        finally:
            lane.release()

    async def _exchange(self, dispatch: Dispatch) -> Reply:
        request, answer = dispatch.request, await self._answer(dispatch)
        if not answer.is_success:
            raise refused(request, answer, secrets=self._access.secrets)
        return Reply(_payload(request, answer), answer.status, answer.request_id)

    async def _answer(self, dispatch: Dispatch) -> Answer:
        request = dispatch.request
        try:
            with dispatch.in_time():
                return await self._http.ask(request, dispatch, telemetry.headers())
        except aiohttp.ClientPayloadError as garbled:
            raise lost(request, "the API's answer broke off or could not be decoded") from garbled
        except aiohttp.ClientError as broken:
            what = f"the connection failed ({type(broken).__name__})"
            raise _without_answer(dispatch, what) from broken
        except TimeoutError as late:
            raise _without_answer(dispatch, dispatch.lateness) from late


async def _queue(lane: anyio.Semaphore, dispatch: Dispatch) -> None:
    patience = max(0.0, dispatch.left / 2)
    try:
        with dispatch.in_time(share=0.5):
            await lane.acquire()
    except TimeoutError as late:
        raise crowded(dispatch.lane, _LANE_WIDTH, round(patience, 1)) from late


def _without_answer(dispatch: Dispatch, what: str) -> InvocationError:
    return lost(dispatch.request, what) if dispatch.has_left else unsent(what)


def _payload(request: Request, answer: Answer) -> Mapping[str, Json]:
    if request.effect == "delete" and answer.status == HTTPStatus.NO_CONTENT:
        return {}
    payload = answer.json()
    if payload is None or request.effect == "delete":
        error = lost(request, f"the API answered {answer.status}, but with nothing readable")
        error.status = answer.status
        raise error
    return payload


def _wait(state: RetryCallState) -> float:
    """The API's Retry-After if it gave one, else exponential back-off with jitter."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, InvocationError) else None
    return max(_BACK_OFF(state), asked or 0)
