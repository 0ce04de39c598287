"""Watches of live calls: each call is asked after once for all who listen, until it has ended."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from secrets import SystemRandom
from typing import Protocol, Self

import anyio

from calls_mcp.background import Background
from calls_mcp.errors import CallsError
from calls_mcp.outcome import CallSummary, Failure, Outcome
from calls_mcp.settings import Access

_SHARE = 4  # one principal gets this part of all watches
_SLOWEST = 60.0  # seconds between attempts that keep failing
_SPREAD = 0.2
_REFUSED = "policy_denied"

_random = SystemRandom()


class TooManyWatches(CallsError):
    """A principal, or all of them, watch as many calls as they may."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A call, as whoever has `access` sees it."""

    access: Access
    sid: str


class Reader(Protocol):
    """Reads one call on behalf of one listener."""

    async def topic(self) -> Topic | None:
        """The call as they see it now; None if they may not read it any more."""
        ...

    async def fetch(self) -> Outcome:
        """What reading it comes to, by what they may do at the last look at `topic`."""
        ...


@dataclass(slots=True, eq=False)
class Seat:
    """A listener's place at a watch; they know the call by `name`.

    `refusals` counts those in a row that were theirs alone; by anyio's clock, no look is taken on
    their behalf before `rests_until`.
    """

    listener: "Listener"
    name: str
    topic: Topic
    reader: Reader
    refusals: int = 0
    rests_until: float = 0


@dataclass(slots=True, eq=False)
class _Watch:
    """A call that somebody listens to; `known` is what was last told of it."""

    topic: Topic
    known: CallSummary | None
    seats: dict[Seat, None] = field(default_factory=dict[Seat, None])
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def is_heard(self) -> bool:
        """Whether anybody could be told of something now."""
        return any(seat.listener.hears for seat in self.seats)

    def change(self) -> None:
        """Take note that listeners came, went, or hear again."""
        self.changed.set()
        self.changed = anyio.Event()


class Watches:
    """The watches of one server.

    A call is asked after about every `interval` seconds; there are `most` places, of which one
    principal gets a quarter.
    """

    def __init__(self, background: Background, interval: float, most: int) -> None:
        self._background = background
        self._interval = interval
        self._most = most
        self._open: dict[Topic, _Watch] = {}
        self._listeners: set[Listener] = set()
        self._places: Counter[str] = Counter()

    def listener(self, principal: str, *, hears: bool = True) -> "Listener":
        """Somebody who listens until they leave."""
        listener = Listener(self, principal, hears=hears)
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

    def join(self, seat: Seat, known: CallSummary | None) -> bool:
        """Have a listener hear of a call of which they know this; whether they know the newest."""
        watch = self._open.get(seat.topic)
        if watch is None:
            watch = self._open[seat.topic] = _Watch(seat.topic, known)
            self._background.start(lambda: self._follow(watch))
        watch.seats[seat] = None
        watch.change()
        return known == watch.known

    def leave(self, seat: Seat) -> None:
        """Tell a listener no more of a call; ask after it no more if nobody is left."""
        watch = self._open.get(seat.topic)
        if watch is None or seat not in watch.seats:
            return
        del watch.seats[seat]
        watch.change()
        if not watch.seats:
            del self._open[seat.topic]
            watch.scope.cancel()

    def change(self, seat: Seat) -> None:
        """Take note that a listener hears again, or no more."""
        if seat.topic in self._open:
            self._open[seat.topic].change()

    async def _follow(self, watch: _Watch) -> None:
        with watch.scope:
            try:
                await self._until_it_ends(watch)
            finally:
                for seat in [*watch.seats]:
                    seat.listener.end(seat)

    async def _until_it_ends(self, watch: _Watch) -> None:
        failures, is_over = 0, False
        while not is_over:
            await self._until_due(watch, self._pause(failures))
            await self._look_around(watch)
            outcome = await self._look(watch)
            if outcome is None:
                continue
            failures = failures + 1 if "error" in outcome else 0
            is_over = is_final(outcome)
            call = outcome.get("call", watch.known)
            if is_over or call != watch.known:
                watch.known = call
                for seat in watch.seats:
                    seat.listener.tell(seat)

    async def _until_due(self, watch: _Watch, seconds: float) -> None:
        """Wait for the next look: none is due while nobody hears, and one once somebody does."""
        with anyio.move_on_after(seconds):
            while watch.is_heard:
                await watch.changed.wait()
        while not watch.is_heard:
            await watch.changed.wait()

    async def _look_around(self, watch: _Watch) -> None:
        """Let go who may not read the call any more; who sees it elsewhere now hears of that."""
        for seat in [*watch.seats]:
            topic = await seat.reader.topic()
            if seat not in watch.seats or topic == watch.topic:
                continue
            if topic is None:
                seat.listener.end(seat)
                continue
            self.leave(seat)
            seat.topic = topic
            if not self.join(seat, watch.known):
                seat.listener.tell(seat)

    async def _look(self, watch: _Watch) -> Outcome | None:
        """The call, read for whoever's turn it is; None if all of them are refused.

        A refusal that is theirs alone passes the turn on, and they rest for longer each time.
        """
        for seat in [*watch.seats]:
            is_resting = seat.rests_until > anyio.current_time()
            if is_resting or seat not in watch.seats or not seat.listener.hears:
                continue
            watch.seats[seat] = watch.seats.pop(seat)
            outcome = await seat.reader.fetch()
            if "error" not in outcome or outcome["error"]["kind"] != _REFUSED:
                seat.refusals = 0
                return outcome
            seat.refusals += 1
            seat.rests_until = anyio.current_time() + self._pause(seat.refusals)
        return None

    def _pause(self, failures: int) -> float:
        longest = max(self._interval, _SLOWEST)
        seconds = min(self._interval * 2 ** min(failures, 10), longest)
        return seconds * _random.uniform(1 - _SPREAD, 1 + _SPREAD)


class Listener:
    """Somebody who hears of changes of the calls they watch, by the names they gave them.

    A context manager: they leave at its end.
    """

    def __init__(self, watches: Watches, principal: str, *, hears: bool = True) -> None:
        self.hears = hears
        """Whether there is a way to tell them just now; if not, what there is waits for them."""
        self._watches = watches
        self._principal = principal
        self._seats: set[Seat] = set()
        self._news: dict[str, None] = {}
        self._woken = anyio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def take(self, topic: Topic, name: str, reader: Reader) -> Seat:
        """A place for a call, before anything is asked of it.

        Raises:
            TooManyWatches: There is no place left.
        """
        self._watches.take_place(self._principal)
        seat = Seat(self, name, topic, reader)
        self._seats.add(seat)
        return seat

    async def watch(self, seat: Seat) -> Failure | None:
        """Watch a call until it ends or may not be read any more; why not, if it can't be."""
        try:
            outcome = await seat.reader.fetch()
        except BaseException:
            self.end(seat)
            raise
        failure = outcome.get("error")
        if failure is not None and not failure["retryable"]:
            self.end(seat)
            return failure
        if seat not in self._seats:  # let go meanwhile
            return None
        if is_final(outcome):
            self.tell(seat)
            self.end(seat)
        elif not self._watches.join(seat, outcome.get("call")):
            self.tell(seat)
        return None

    def attend(self, *, hears: bool) -> None:
        """Take note whether there is a way to tell them."""
        self.hears = hears
        self._wake()
        for seat in self._seats:
            self._watches.change(seat)

    def tell(self, seat: Seat) -> None:
        """Take note that something is new about a call."""
        if seat in self._seats:
            self._news[seat.name] = None
            self._wake()

    def end(self, seat: Seat) -> None:
        """Hear no more of a call."""
        if seat not in self._seats:
            return
        self._seats.remove(seat)
        self._watches.free_place(self._principal)
        self._watches.leave(seat)
        self._wake()

    def leave(self) -> None:
        """Hear no more of any call."""
        self._watches.forget(self)
        for seat in [*self._seats]:
            self.end(seat)

    async def changes(self) -> AsyncIterator[str]:
        """The names of calls that changed, each as soon as it did, until there is none to watch."""
        while self._news or self._seats:
            while self._news and self.hears:
                name = next(iter(self._news))
                del self._news[name]
                yield name
            if self._news or self._seats:
                await self._woken.wait()

    def _wake(self) -> None:
        self._woken.set()
        self._woken = anyio.Event()


def is_final(outcome: Outcome) -> bool:
    """Whether nothing more will change: the call has ended, or there is no record of it."""
    if "error" in outcome:
        return outcome["error"]["kind"] == "not_found"
    return outcome.get("call", {}).get("live") is False
