"""Notifications of changes of calls, in either era: a stream of its own, or a subscription."""

import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio
import mcp_types as types
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.connection import Connection
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY

from calls_mcp import correlation
from calls_mcp.authentication import Own, own
from calls_mcp.offer import Context, Offer, caller_of, connection_of, principal_of
from calls_mcp.outcome import Caller, Outcome
from calls_mcp.resources import Resources, unreadable
from calls_mcp.watching import Listener, TooManyWatches, Topic, Watches

if TYPE_CHECKING:
    from calls_mcp.background import Background

_READING = "fetch_call"
_STATE = "calls-mcp/subscriptions"


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
        listener = self._watching(ctx).listener(principal_of(ctx))
        try:
            await self._join(ctx, listener, uri)
        except BaseException:
            listener.leave()
            raise
        known = _subscribed(connection)
        if (before := known.pop(uri, None)) is not None:
            before.cancel()
        scope = known[uri] = anyio.CancelScope()
        background: Background = ctx.lifespan_context
        background.start(partial(_tell, ctx, listener, scope))
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
        """Those of `uris` that can be watched."""
        refusals: list[MCPError] = []
        joined: list[str] = []
        for uri in uris:
            if self._resources.is_static(uri):
                continue
            try:
                await self._join(ctx, listener, uri)
                joined.append(uri)
            except MCPError as refusal:
                refusals.append(refusal)
        if refusals and not joined:
            raise refusals[0]
        return joined

    async def _join(self, ctx: Context, listener: Listener, uri: str) -> None:
        """Watch a call, which the caller must be able to read.

        Raises:
            MCPError: They are not, or watch too many already.
        """
        sid, whose = self._resources.call(uri), own()
        topic = Topic(self._offer.runtime.access_of(whose), sid)
        fetch = partial(self._fetch, sid, caller_of(ctx), whose)
        try:
            failure = await listener.watch(topic, uri, fetch, _expiry())
        except TooManyWatches as full:
            raise MCPError(types.INVALID_REQUEST, f"{full}.", {"uri": uri}) from full
        if failure is not None:
            raise unreadable(uri, failure)

    async def _fetch(self, sid: str, caller: Caller, whose: Own | None) -> Outcome:
        with correlation.request(None, caller.principal):
            return await self._offer.read(_READING, {"sid": sid}, caller, whose)

    def _watching(self, ctx: Context) -> Watches:
        background: Background = ctx.lifespan_context
        watches = self._watches.get(background)
        if watches is None:
            settings = self._offer.runtime.settings
            interval, most = settings.calls_mcp_watch_interval, settings.calls_mcp_watches
            clock = self._offer.runtime.clock
            watches = self._watches[background] = Watches(background, interval, most, clock)
            background.start(partial(self._let_go_at_the_end, watches))
        return watches

    async def _let_go_at_the_end(self, watches: Watches) -> None:
        await self._offer.runtime.ending.wait()
        watches.close()


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


async def _tell(ctx: Context, listener: Listener, scope: anyio.CancelScope) -> None:
    with scope, listener, suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for uri in listener.changes():
            await ctx.session.send_resource_updated(uri)


def _expiry() -> float:
    """The epoch time at which the token in hand expires."""
    token = get_access_token()
    return math.inf if token is None or token.expires_at is None else token.expires_at
