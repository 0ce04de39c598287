"""Notifications of changes of calls, in either era: a stream of its own, or a subscription."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio
import mcp_types as types
from mcp.server.connection import Connection
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY

from calls_mcp import correlation
from calls_mcp.authentication import Grant, allows, grant
from calls_mcp.offer import Context, Offer, caller_of, connection_of, principal_of
from calls_mcp.outcome import Caller, Outcome
from calls_mcp.policy import PolicyDenied, judge_account
from calls_mcp.resources import Resources, unreadable
from calls_mcp.watching import Listener, Seat, TooManyWatches, Topic, Watches

if TYPE_CHECKING:
    from calls_mcp.background import Background

_READING = "fetch_call"
_STATE = "calls-mcp/subscriptions"
_AT_ONCE = 4  # first looks of one request


class Subscriptions:
    """Who is told of which calls."""

    def __init__(self, offer: Offer, resources: Resources) -> None:
        self._offer = offer
        self._resources = resources
        self._watches: WeakKeyDictionary[Background, Watches] = WeakKeyDictionary()

    async def listen(
        self, ctx: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Tell of changes until all calls asked for have ended, or the client goes.

        Raises:
            MCPError: None of these calls can be watched.
        """
        if ctx.request_id is None:
            raise MCPError(types.INVALID_REQUEST, "subscriptions/listen requires a request id")
        asked = dict.fromkeys(params.notifications.resource_subscriptions or ())
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        with self._watching(ctx).listener(principal_of(ctx)) as listener:
            honored = await self._join_all(ctx, listener, [*asked])
            agreed = types.SubscriptionFilter(resource_subscriptions=honored or None)
            told = types.SubscriptionsAcknowledgedNotificationParams(
                notifications=agreed, _meta=meta
            )
            acknowledged = types.SubscriptionsAcknowledgedNotification(params=told)
            await ctx.session.send_notification(acknowledged, ctx.request_id)
            async for uri in listener.changes():
                updated = types.ResourceUpdatedNotificationParams(uri=uri, _meta=meta)
                notification = types.ResourceUpdatedNotification(params=updated)
                await ctx.session.send_notification(notification, ctx.request_id)
        return types.SubscriptionsListenResult(_meta=meta)

    async def subscribe(
        self, ctx: Context, params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        """Tell an older client of changes until the call or its session ends.

        Raises:
            MCPError: This can't be watched, or there is no way to tell of changes.
        """
        uri, connection = params.uri, connection_of(ctx)
        if not connection.has_standalone_channel:
            raise MCPError(
                types.METHOD_NOT_FOUND,
                "This server keeps no sessions, so it can't tell of changes: read the resource "
                "again instead",
                {"uri": uri},
            )
        if self._resources.is_static(uri):
            return types.EmptyResult()
        listener = self._watching(ctx).listener(principal_of(ctx), hears=self._is_heard(connection))
        try:
            await self._join_all(ctx, listener, [uri])
        except BaseException:
            listener.leave()
            raise
        known = _subscribed(connection)
        if (before := known.pop(uri, None)) is not None:
            before.cancel()
        scope = known[uri] = anyio.CancelScope()
        background: Background = ctx.lifespan_context
        background.start(partial(self._tell, connection, uri, listener, scope))
        return types.EmptyResult()

    async def unsubscribe(
        self, ctx: Context, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        """Tell an older client no more of a call."""
        scope = _subscribed(connection_of(ctx)).pop(params.uri, None)
        if scope is not None:
            scope.cancel()
        return types.EmptyResult()

    async def _join_all(self, ctx: Context, listener: Listener, uris: list[str]) -> list[str]:
        """Watch those of `uris` that can be; nothing is asked of those beyond the last place.

        Raises:
            MCPError: It is none of them.
        """
        seats: dict[str, Seat] = {}
        refusals: dict[str, MCPError] = {}
        for uri in uris:
            if self._resources.is_static(uri):
                continue
            try:
                seats[uri] = self._take(ctx, listener, uri)
            except MCPError as refusal:
                refusals[uri] = refusal
        limit = anyio.Semaphore(_AT_ONCE)

        async def watch(seat: Seat) -> None:
            async with limit:
                failure = await listener.watch(seat)
            if failure is not None:
                refusals[seat.name] = unreadable(seat.name, failure)

        async with anyio.create_task_group() as tasks:
            for seat in seats.values():
                tasks.start_soon(watch, seat)
        joined = [uri for uri in seats if uri not in refusals]
        if refusals and not joined:
            raise next(refusals[uri] for uri in uris if uri in refusals)
        return joined

    def _take(self, ctx: Context, listener: Listener, uri: str) -> Seat:
        """A place for a call, which the caller must be allowed to read.

        Raises:
            MCPError: They are not, or watch too many already.
        """
        reader = _Reader(self._offer, self._resources.call(uri), caller_of(ctx), grant())
        try:
            return listener.take(reader.seen(), uri, reader)
        except TooManyWatches as full:
            raise MCPError(types.INVALID_REQUEST, f"{full}.", {"uri": uri}) from full

    async def _tell(
        self, connection: Connection, uri: str, listener: Listener, scope: anyio.CancelScope
    ) -> None:
        with scope, listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._attend, connection, listener)
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    async for changed in listener.changes():
                        await connection.send_resource_updated(changed)
                tasks.cancel_scope.cancel()
        if (known := _subscribed(connection)).get(uri) is scope:
            del known[uri]

    async def _attend(self, connection: Connection, listener: Listener) -> None:
        """Have a listener hear whenever there is a stream for it."""
        while True:
            listener.attend(hears=self._is_heard(connection))
            await self._offer.runtime.streams.changed()

    def _is_heard(self, connection: Connection) -> bool:
        """Whether a connection has a stream to be told on; one that is no session is one."""
        session = connection.session_id
        return session is None or self._offer.runtime.streams.is_open(session)

    def _watching(self, ctx: Context) -> Watches:
        background: Background = ctx.lifespan_context
        watches = self._watches.get(background)
        if watches is None:
            settings = self._offer.runtime.settings
            interval, most = settings.watch.interval, settings.watch.limit
            watches = self._watches[background] = Watches(background, interval, most)
            background.start(partial(self._let_go_at_the_end, watches))
        return watches

    async def _let_go_at_the_end(self, watches: Watches) -> None:
        await self._offer.runtime.ending.wait()
        watches.close()


@dataclass(slots=True, eq=False)
class _Reader:
    """Reads a call for one principal, with what their token grants at each look."""

    offer: Offer
    sid: str
    caller: Caller
    grant: Grant | None

    async def topic(self) -> Topic | None:
        """The call as they see it now; None if they may not read it any more."""
        if self.grant is None:
            return self.seen()
        runtime = self.offer.runtime
        renewed = await self.grant.renewed()
        if (
            renewed is None
            or renewed.principal != self.caller.principal
            or renewed.ends_at <= runtime.clock()
            or not allows(self.offer.operations[_READING], renewed)
        ):
            return None
        self.grant = renewed
        topic = self.seen()
        try:
            judge_account(
                await runtime.policy(self.caller.principal, renewed.own), topic.access.account_sid
            )
        except PolicyDenied:
            return None
        return topic

    def seen(self) -> Topic:
        """The call as they saw it when that was last looked up."""
        whose = self.grant.own if self.grant else None
        return Topic(self.offer.runtime.access_of(whose), self.sid)

    async def fetch(self) -> Outcome:
        """What reading it comes to."""
        whose = self.grant.own if self.grant else None
        with correlation.request(None, self.caller.principal):
            return await self.offer.read(_READING, {"sid": self.sid}, self.caller, whose)


def _subscribed(connection: Connection) -> dict[str, anyio.CancelScope]:
    """What ends each subscription of a connection; all of them end with it."""
    known: dict[str, anyio.CancelScope] | None = connection.state.get(_STATE)
    if known is None:
        known = connection.state[_STATE] = {}
        connection.exit_stack.callback(_cancel_all, known)
    return known


def _cancel_all(scopes: dict[str, anyio.CancelScope]) -> None:
    for scope in scopes.values():
        scope.cancel()
