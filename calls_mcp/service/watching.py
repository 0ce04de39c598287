"""Watch live calls for subscribers. Each call is read once for all of them, until it ends."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from secrets import SystemRandom
from typing import Protocol

import anyio

from calls_mcp.errors import CallsError, PolicyDenied
from calls_mcp.service.background_tasks import BackgroundTasks
from calls_mcp.settings import Access
from calls_mcp.tools.call_summary import CallSummary
from calls_mcp.tools.outcome import Failure, Outcome

_RINGING = frozenset({"queued", "ringing"})
_WHILE_RINGING, _LATER = 1.0, 3.0  # seconds between reads of a call that a client waits for
_SHARE = 4  # one principal gets a quarter of all subscriptions
_SLOWEST = 60.0  # seconds between attempts that keep failing
_LONGEST_ASKED = 300.0  # seconds that the API can ask to wait before the next read
_SPREAD = 0.2

_random = SystemRandom()


class NotificationStreams:
    """Tracks which HTTP sessions have an open stream for notifications, maybe several."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._changed = anyio.Event()

    def is_open(self, session: str) -> bool:
        """Return whether the session can receive notifications now."""
        return session in self._open

    @contextmanager
    def opened(self, session: str) -> Generator[None]:
        """Register a stream of the session until the context exits."""
        self._open[session] += 1
        self._notify()
        try:
            yield
        finally:
            self._open[session] -= 1
            self._open += Counter()  # drops sessions without a stream
            self._notify()

    async def changed(self) -> None:
        """Wait until a stream opens or closes."""
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class TooManyWatches(CallsError):
    """The limit on subscriptions, of a principal or in total, is reached."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A call of an account, read with `access`."""

    access: Access
    account_sid: str
    sid: str


class Reader(Protocol):
    """Reads one call for one subscriber."""

    async def topic(self) -> Topic | None:
        """Return the call's current topic; None if the subscriber may no longer read it."""
        ...

    async def fetch(self) -> Outcome:
        """Read the call with the permissions that `topic` last checked."""
        ...


@dataclass(slots=True, eq=False)
class Subscription:
    """A principal's subscription to a call, whose URI is `name`.

    `is_heard` returns whether the subscriber can be notified now; until then, a change is kept.
    While a subscriber `is_waiting`, the call is read more often, and only by readers of those who
    wait. `latest` is the last read that was not taken.
    """

    principal: str
    name: str
    topic: Topic
    reader: Reader
    is_heard: Callable[[], bool] = lambda: True
    is_waiting: bool = False
    latest: Outcome | None = None
    has_news: bool = False
    is_over: bool = False
    _woken: anyio.Event = field(default_factory=anyio.Event)

    async def changes(self) -> AsyncIterator[str]:
        """Yield the name at each change, until the subscription has ended."""
        while self.has_news or not self.is_over:
            if self.has_news and self.is_heard():
                self.has_news = False
                yield self.name
            else:
                await self._woken.wait()

    async def next_read(self) -> Outcome | None:
        """Return the outcome of the next read; None once the subscription has ended."""
        while self.latest is None and not self.is_over:
            await self._woken.wait()
        outcome, self.latest = self.latest, None
        return outcome

    def tell(self) -> None:
        """Note that the call has changed."""
        self.has_news = True
        self.wake()

    def wake(self) -> None:
        """Make `changes` check again."""
        self._woken.set()
        self._woken = anyio.Event()


@dataclass(slots=True, eq=False)
class _Watch:
    """A call with subscribers.

    `known` is its state at the last notification, and `failures` counts consecutive failed reads.
    The last failure asked to wait `asked` seconds.
    """

    topic: Topic
    known: CallSummary | None
    failures: int = 0
    asked: float = 0
    subscribers: dict[Subscription, None] = field(default_factory=dict[Subscription, None])
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def is_heard(self) -> bool:
        """Whether any subscriber can be notified now."""
        return any(subscription.is_heard() for subscription in self.subscribers)

    @property
    def waiting(self) -> list[Subscription]:
        """The subscribers that wait for a read."""
        return [subscription for subscription in self.subscribers if subscription.is_waiting]

    def interval(self, usual: float) -> float:
        """Return the seconds between two reads."""
        if not self.waiting:
            return usual
        is_ringing = self.known is None or self.known.status in _RINGING
        return min(usual, _WHILE_RINGING if is_ringing else _LATER)

    def change(self) -> None:
        """Note that subscribers were added or removed, or can be notified again."""
        self.changed.set()
        self.changed = anyio.Event()


class Watches:
    """The watches of one server.

    A call is read about every `interval` seconds, or more often while a client waits for it. There
    are at most `most` subscriptions, and one principal gets at most a quarter of them.
    """

    def __init__(self, background: BackgroundTasks, interval: float, most: int) -> None:
        self._background = background
        self._interval = interval
        self._most = most
        self._open: dict[Topic, _Watch] = {}
        self._subscriptions: set[Subscription] = set()

    def add(self, subscription: Subscription) -> None:
        """Add a subscription, before anything is read.

        Raises:
            TooManyWatches: The limit is reached.
        """
        principals = [each.principal for each in self._subscriptions]
        share = max(1, self._most // _SHARE)
        if len(principals) >= self._most or principals.count(subscription.principal) >= share:
            raise TooManyWatches("Too many subscriptions: end another one first")
        self._subscriptions.add(subscription)

    async def watch(self, subscription: Subscription) -> Failure | None:
        """Read the call, then watch it until it ends. Return the failure if it can't be watched."""
        outcome = await subscription.reader.fetch()
        failure = outcome.error
        if failure is not None and not failure.retryable:
            self.end(subscription)
            return failure
        if subscription not in self._subscriptions:  # ended meanwhile
            return None
        if is_final(outcome):
            subscription.tell()
            self.end(subscription)
        else:
            self._join(subscription, outcome.call)
        return None

    @contextmanager
    def waiting(self, subscription: Subscription, known: CallSummary | None) -> Generator[None]:
        """Read the call for a client that waits, and has read its `known` state.

        Raises:
            TooManyWatches: The limit is reached.
        """
        self.add(subscription)
        self._join(subscription, known)
        try:
            yield
        finally:
            self.cancel(subscription)

    def end(self, subscription: Subscription) -> None:
        """End a subscription. A change that was kept is still sent."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._leave(subscription)
            subscription.is_over = True
            subscription.wake()

    def cancel(self, subscription: Subscription) -> None:
        """End a subscription without any further notification."""
        self.end(subscription)
        subscription.has_news = False
        subscription.wake()

    def close(self) -> None:
        """End all subscriptions."""
        for subscription in [*self._subscriptions]:
            self.end(subscription)

    def attend(self, subscription: Subscription) -> None:
        """Note that `is_heard` may have changed."""
        subscription.wake()
        if watch := self._open.get(subscription.topic):
            watch.change()

    def _join(self, subscription: Subscription, known: CallSummary | None) -> None:
        """Subscribe to a call, and notify the subscriber if their `known` state is outdated."""
        watch = self._open.get(subscription.topic)
        if watch is None:
            watch = self._open[subscription.topic] = _Watch(subscription.topic, known)
            self._background.start(lambda: self._follow(watch))
        watch.subscribers[subscription] = None
        if known is not None:  # the subscriber has just read the call
            watch.failures, watch.asked = 0, 0
        watch.change()
        if known != watch.known:
            subscription.tell()

    def _leave(self, subscription: Subscription) -> None:
        watch = self._open.get(subscription.topic)
        if watch is None or subscription not in watch.subscribers:
            return
        del watch.subscribers[subscription]
        watch.change()
        if not watch.subscribers:
            del self._open[subscription.topic]
            watch.scope.cancel()

    async def _follow(self, watch: _Watch) -> None:
        with watch.scope:
            try:
                await self._until_it_ends(watch)
            finally:
                for subscription in [*watch.subscribers]:
                    self.end(subscription)

    async def _until_it_ends(self, watch: _Watch) -> None:
        is_over = False
        while not is_over:
            await self._until_due(watch)
            await self._renew(watch)
            present = [*watch.subscribers]
            outcome = await self._read(watch)
            if outcome is None:
                continue
            # All subscribers have the same credentials: a failure of the API concerns each of them.
            watch.failures = watch.failures + 1 if outcome.error else 0
            watch.asked = (outcome.error and outcome.error.retry_after) or 0
            is_over = is_final(outcome)
            # Subscribers that joined during the read may know something newer than the outcome.
            for subscription in watch.subscribers if is_over else present:
                subscription.latest = outcome
                subscription.wake()
            call = outcome.call or watch.known
            if is_over or call != watch.known:
                watch.known = call
                for subscription in watch.subscribers:
                    subscription.tell()

    async def _until_due(self, watch: _Watch) -> None:
        """Wait until the next read is due. No read is due while nobody can be notified."""
        since = anyio.current_time()
        while watch.is_heard:
            pause = self._pause(watch)
            due = since + max(pause, min(watch.asked, _LONGEST_ASKED))
            with anyio.CancelScope(deadline=due):
                await watch.changed.wait()
                continue
            return
        while not watch.is_heard:
            await watch.changed.wait()

    async def _renew(self, watch: _Watch) -> None:
        """End subscriptions that are no longer permitted, and move those whose topic changed."""
        for subscription in [*watch.subscribers]:
            topic = await subscription.reader.topic()
            if subscription not in watch.subscribers or topic == watch.topic:
                continue
            if topic is None:
                self.end(subscription)
                continue
            self._leave(subscription)
            subscription.topic = topic
            self._join(subscription, watch.known)

    async def _read(self, watch: _Watch) -> Outcome | None:
        """Read the call for the next subscriber who may read it; None if there is none."""
        for subscription in watch.waiting or [*watch.subscribers]:
            if subscription not in watch.subscribers or not subscription.is_heard():
                continue
            watch.subscribers[subscription] = watch.subscribers.pop(subscription)
            outcome = await subscription.reader.fetch()
            if outcome.error_kind != PolicyDenied.kind:
                return outcome
        return None

    def _pause(self, watch: _Watch) -> float:
        interval = watch.interval(self._interval)
        seconds = min(interval * 2 ** min(watch.failures, 10), max(interval, _SLOWEST))
        return seconds * _random.uniform(1 - _SPREAD, 1 + _SPREAD)


def is_final(outcome: Outcome) -> bool:
    """Return whether the call is final: it has ended, or its record is gone."""
    if outcome.error:
        return outcome.error.kind == "not_found"
    return outcome.call is not None and outcome.call.live is False
