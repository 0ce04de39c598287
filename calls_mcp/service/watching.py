"""Watches of live calls: each call is read once for everybody subscribed, until it has ended."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from secrets import SystemRandom
from typing import Protocol

import anyio

from calls_mcp.errors import CallsError
from calls_mcp.service.background_tasks import BackgroundTasks
from calls_mcp.settings import Access
from calls_mcp.tools.outcome import CallSummary, Failure, Outcome

_SHARE = 4  # one principal gets this part of all watches
_SLOWEST = 60.0  # seconds between attempts that keep failing
_SPREAD = 0.2
_REFUSED = "policy_denied"

_random = SystemRandom()


class TooManyWatches(CallsError):
    """A principal, or all of them, watch as many calls as they may."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A call, as seen with `access`."""

    access: Access
    sid: str


class Reader(Protocol):
    """Reads one call for one subscriber."""

    async def topic(self) -> Topic | None:
        """Return the call as they see it now; None if they may no longer read it."""
        ...

    async def fetch(self) -> Outcome:
        """Read the call, with what they were allowed when `topic` was last asked for."""
        ...


@dataclass(slots=True, eq=False)
class Subscription:
    """A principal's subscription to a call, which they know by `name`.

    `is_heard` tells whether they could be notified now; until then, news waits. `refusals` counts
    consecutive refusals that concern nobody else. No read is made for them before `rests_until`,
    by anyio's clock.
    """

    principal: str
    name: str
    topic: Topic
    reader: Reader
    is_heard: Callable[[], bool] = lambda: True
    has_news: bool = False
    is_over: bool = False
    refusals: int = 0
    rests_until: float = 0
    _woken: anyio.Event = field(default_factory=anyio.Event)

    async def changes(self) -> AsyncIterator[str]:
        """Yield the name at each change, until nothing more can come."""
        while self.has_news or not self.is_over:
            if self.has_news and self.is_heard():
                self.has_news = False
                yield self.name
            else:
                await self._woken.wait()

    def tell(self) -> None:
        """Note that the call has changed."""
        self.has_news = True
        self.wake()

    def wake(self) -> None:
        """Have `changes` look again."""
        self._woken.set()
        self._woken = anyio.Event()


@dataclass(slots=True, eq=False)
class _Watch:
    """A call with subscribers; `known` is what they were last notified of."""

    topic: Topic
    known: CallSummary | None
    subscribers: dict[Subscription, None] = field(default_factory=dict[Subscription, None])
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def is_heard(self) -> bool:
        """Return whether anybody could be notified now."""
        return any(subscription.is_heard() for subscription in self.subscribers)

    def change(self) -> None:
        """Note that subscribers came, went, or can be notified again."""
        self.changed.set()
        self.changed = anyio.Event()


class Watches:
    """The watches of one server.

    A call is read about every `interval` seconds. There are `most` places, of which one principal
    gets a quarter.
    """

    def __init__(self, background: BackgroundTasks, interval: float, most: int) -> None:
        self._background = background
        self._interval = interval
        self._most = most
        self._open: dict[Topic, _Watch] = {}
        self._subscriptions: set[Subscription] = set()

    def add(self, subscription: Subscription) -> None:
        """Take a place, before anything is read.

        Raises:
            TooManyWatches: There is no place left.
        """
        principals = [each.principal for each in self._subscriptions]
        share = max(1, self._most // _SHARE)
        if len(principals) >= self._most or principals.count(subscription.principal) >= share:
            raise TooManyWatches("As many calls are being watched as may be: end another first")
        self._subscriptions.add(subscription)

    async def watch(self, subscription: Subscription) -> Failure | None:
        """Read the call, then watch it until it ends. Return why, if it can't be watched."""
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

    def end(self, subscription: Subscription) -> None:
        """Free the place. News that has not been heard yet still can be."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._leave(subscription)
            subscription.is_over = True
            subscription.wake()

    def cancel(self, subscription: Subscription) -> None:
        """Free the place, and tell the subscriber nothing more."""
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
        """Subscribe to a call of which `known` is known, and tell them if that is outdated."""
        watch = self._open.get(subscription.topic)
        if watch is None:
            watch = self._open[subscription.topic] = _Watch(subscription.topic, known)
            self._background.start(lambda: self._follow(watch))
        watch.subscribers[subscription] = None
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
        failures, is_over = 0, False
        while not is_over:
            await self._until_due(watch, self._pause(failures))
            await self._renew(watch)
            outcome = await self._read(watch)
            if outcome is None:
                continue
            # All subscribers have the same credentials: a failure of the API concerns each of them.
            failures = failures + 1 if outcome.error else 0
            is_over = is_final(outcome)
            call = outcome.call or watch.known
            if is_over or call != watch.known:
                watch.known = call
                for subscription in watch.subscribers:
                    subscription.tell()

    async def _until_due(self, watch: _Watch, seconds: float) -> None:
        """Wait for the next read: none is due until somebody could be notified."""
        with anyio.move_on_after(seconds):
            while watch.is_heard:
                await watch.changed.wait()
        while not watch.is_heard:
            await watch.changed.wait()

    async def _renew(self, watch: _Watch) -> None:
        """End subscriptions that are no longer permitted; move those whose access has changed."""
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
        """Read the call for the next subscriber in turn; return None if all of them are refused.

        A refusal that concerns one of them passes the turn on, and they rest longer each time.
        """
        for subscription in [*watch.subscribers]:
            is_resting = subscription.rests_until > anyio.current_time()
            if is_resting or subscription not in watch.subscribers or not subscription.is_heard():
                continue
            watch.subscribers[subscription] = watch.subscribers.pop(subscription)
            outcome = await subscription.reader.fetch()
            if outcome.error_kind != _REFUSED:
                subscription.refusals = 0
                return outcome
            subscription.refusals += 1
            subscription.rests_until = anyio.current_time() + self._pause(subscription.refusals)
        return None

    def _pause(self, failures: int) -> float:
        longest = max(self._interval, _SLOWEST)
        seconds = min(self._interval * 2 ** min(failures, 10), longest)
        return seconds * _random.uniform(1 - _SPREAD, 1 + _SPREAD)


def is_final(outcome: Outcome) -> bool:
    """Return whether nothing more will change: the call has ended, or there is no record of it."""
    if outcome.error:
        return outcome.error.kind == "not_found"
    return outcome.call is not None and outcome.call.live is False
