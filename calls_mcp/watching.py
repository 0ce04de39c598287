"""Watches of live calls: each call is asked after once for all who listen, until it has ended."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from secrets import SystemRandom
from typing import Self

import anyio

from calls_mcp.background import Background
from calls_mcp.errors import CallsError
from calls_mcp.outcome import CallSummary, Failure, Outcome
from calls_mcp.settings import Access

Fetch = Callable[[], Awaitable[Outcome]]
"""Reads a call on behalf of one listener."""

_SHARE = 4  # one principal gets this part of all watches
_SLOWEST = 60.0  # seconds between attempts that keep failing
_SPREAD = 0.2

_random = SystemRandom()


class TooManyWatches(CallsError):
    """A principal, or all of them, watch as many calls as they may."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A call, as whoever has `access` sees it."""

    access: Access
    sid: str


@dataclass(slots=True, eq=False)
class _Seat:
    """A listener's place at a watch, until an epoch time."""

    listener: "Listener"
    fetch: Fetch
    until: float


@dataclass(slots=True, eq=False)
class _Watch:
    """A call that somebody listens to; `known` is what was last told of it."""

    topic: Topic
    known: CallSummary | None
    seats: dict["Listener", _Seat] = field(default_factory=dict["Listener", _Seat])
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def next(self) -> _Seat:
        """The listener whose turn it is to have the call read."""
        listener = next(iter(self.seats))
        seat = self.seats[listener] = self.seats.pop(listener)
        return seat


class Watches:
    """The watches of one server.

    A call is asked after about every `interval` seconds; there are `most` places, of which one
    principal gets a quarter. `clock` gives the time in epoch seconds.
    """

    def __init__(
        self,
        background: Background,
        interval: float,
        most: int,
        clock: Callable[[], float],
    ) -> None:
        self._background = background
        self._interval = interval
        self._most = most
        self._clock = clock
        self._open: dict[Topic, _Watch] = {}
        self._listeners: set[Listener] = set()
        self._places: Counter[str] = Counter()

    def listener(self, principal: str) -> "Listener":
        """Somebody who listens until they leave."""
        listener = Listener(self, principal)
        self._listeners.add(listener)
        return listener

    def forget(self, listener: "Listener") -> None:
        """Take note that somebody left."""
        self._listeners.discard(listener)

    def close(self) -> None:
        """Let all listeners go, once they have heard what there is."""
        for listener in [*self._listeners]:
            listener.leave()

    def take_place(self, principal: str) -> None:
        """Count one more.

        Raises:
            TooManyWatches: There is no place left.
        """
        each = max(1, self._most // _SHARE)
        if self._places[principal] >= each or self._places.total() >= self._most:
            raise TooManyWatches("As many calls are being watched as may be: end another first")
        self._places[principal] += 1

    def free_place(self, principal: str) -> None:
        """Count one less."""
        self._places[principal] -= 1
        self._places += Counter()  # without those of nobody

    def join(self, topic: Topic, seat: _Seat, known: CallSummary | None) -> bool:
        """Have a listener hear of a call of which they know this; whether they know the newest."""
        watch = self._open.get(topic)
        if watch is None:
            watch = self._open[topic] = _Watch(topic, known)
            self._background.start(lambda: self._follow(watch))
        watch.seats[seat.listener] = seat
        return known == watch.known

    def leave(self, topic: Topic, listener: "Listener") -> None:
        """Tell a listener no more of a call; ask after it no more if nobody is left."""
        watch = self._open.get(topic)
        if watch is None or watch.seats.pop(listener, None) is None or watch.seats:
            return
        del self._open[topic]
        watch.scope.cancel()

    async def _follow(self, watch: _Watch) -> None:
        with watch.scope:
            try:
                await self._until_it_ends(watch)
            finally:
                self._end(watch)

    async def _until_it_ends(self, watch: _Watch) -> None:
        failures, is_over = 0, False
        while not is_over:
            await anyio.sleep(self._pause(failures))
            self._dismiss_expired(watch)
            if not watch.seats:
                return
            outcome = await watch.next().fetch()
            failures = failures + 1 if "error" in outcome else 0
            is_over = is_final(outcome)
            call = outcome.get("call", watch.known)
            if is_over or call != watch.known:
                watch.known = call
                for listener in watch.seats:
                    listener.tell(watch.topic)

    def _pause(self, failures: int) -> float:
        longest = max(self._interval, _SLOWEST)
        seconds = min(self._interval * 2 ** min(failures, 10), longest)
        return seconds * _random.uniform(1 - _SPREAD, 1 + _SPREAD)

    def _dismiss_expired(self, watch: _Watch) -> None:
        now = self._clock()
        for seat in [seat for seat in watch.seats.values() if seat.until <= now]:
            seat.listener.end(watch.topic)

    def _end(self, watch: _Watch) -> None:
        for listener in [*watch.seats]:
            listener.end(watch.topic)


class Listener:
    """Somebody who hears of changes of the calls they watch, by the names they gave them.

    A context manager: they leave at its end.
    """

    def __init__(self, watches: Watches, principal: str) -> None:
        self._watches = watches
        self._principal = principal
        self._names: dict[Topic, str] = {}
        self._news: dict[str, None] = {}
        self._woken = anyio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    async def watch(self, topic: Topic, name: str, fetch: Fetch, until: float) -> Failure | None:
        """Watch a call until it ends or until an epoch time; why not, if it can't be.

        Raises:
            TooManyWatches: There is no place left.
        """
        self._watches.take_place(self._principal)
        self._names[topic] = name
        try:
            outcome = await fetch()
        except BaseException:
            self.end(topic)
            raise
        failure = outcome.get("error")
        if failure is not None and not failure["retryable"]:
            self.end(topic)
            return failure
        if topic not in self._names:  # let go meanwhile
            return None
        if is_final(outcome):
            self.tell(topic)
            self.end(topic)
        elif not self._watches.join(topic, _Seat(self, fetch, until), outcome.get("call")):
            self.tell(topic)
        return None

    def tell(self, topic: Topic) -> None:
        """Take note that something is new about a call."""
        if topic in self._names:
            self._news[self._names[topic]] = None
            self._wake()

    def end(self, topic: Topic) -> None:
        """Hear no more of a call."""
        if self._names.pop(topic, None) is None:
            return
        self._watches.free_place(self._principal)
        self._watches.leave(topic, self)
        self._wake()

    def leave(self) -> None:
        """Hear no more of any call."""
        self._watches.forget(self)
        for topic in [*self._names]:
            self.end(topic)

    async def changes(self) -> AsyncIterator[str]:
        """The names of calls that changed, each as soon as it did, until there is none to watch."""
        while self._news or self._names:
            while self._news:
                name = next(iter(self._news))
                del self._news[name]
                yield name
            if self._names:
                await self._woken.wait()

    def _wake(self) -> None:
        self._woken.set()
        self._woken = anyio.Event()


def is_final(outcome: Outcome) -> bool:
    """Whether nothing more will change: the call has ended, or there is no record of it."""
    if "error" in outcome:
        return outcome["error"]["kind"] == "not_found"
    return outcome.get("call", {}).get("live") is False
