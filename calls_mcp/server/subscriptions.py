"""Notifications about changes of calls, by `subscriptions/listen` or `resources/subscribe`."""

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio
import mcp_types as types
from mcp.server.connection import Connection
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated

from calls_mcp.errors import PolicyDenied
from calls_mcp.guard.policy.tool_call_rules import judge_account
from calls_mcp.observability.current_request import request_context
from calls_mcp.server.permissions import (
    Context,
    Permissions,
    caller_of,
    connection_of,
    principal_of,
)
from calls_mcp.server.resources import Resources, unreadable
from calls_mcp.service.grants import Grant, current_grant, renewed_for
from calls_mcp.service.watching import Subscription, TooManyWatches, Topic, Watches
from calls_mcp.tools.outcome import Caller, Outcome

if TYPE_CHECKING:
    from calls_mcp.service.background_tasks import BackgroundTasks

_READING = "fetch_call"
_STATE = "calls-mcp/subscriptions"
_AT_ONCE = 4  # first reads of one request


class Subscriptions:
    """Notifies clients about the calls that they subscribed to."""

    def __init__(self, permissions: Permissions, resources: Resources) -> None:
        self._permissions = permissions
        self._resources = resources

    async def listen(
        self, ctx: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Notify about changes until all calls have ended or the client disconnects.

        Raises:
            MCPError: None of the calls can be watched.
        """
        asked = dict.fromkeys(params.notifications.resource_subscriptions or ())
        with ExitStack() as leaving:
            watched = await self._watch_all(ctx, [*asked], leaving)
            honored = [subscription.name for subscription in watched]
            agreed = types.SubscriptionFilter(resource_subscriptions=honored or None)
            bus = InMemorySubscriptionBus()  # of this stream only: others watch other calls
            handler = ListenHandler(bus)
            background: BackgroundTasks = ctx.lifespan_context
            background.start(partial(_publish, watched, bus, handler))
            return await handler(ctx, params.model_copy(update={"notifications": agreed}))

    async def subscribe(
        self, ctx: Context, params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        """Notify an older client about changes until the call or its session ends.

        Raises:
            MCPError: The call can't be watched, or the client can't be notified.
        """
        uri, connection = params.uri, connection_of(ctx)
        if not connection.has_standalone_channel:
            raise MCPError(
                types.METHOD_NOT_FOUND,
                "Subscriptions are not available, because this server keeps no sessions. Read the "
                "resource again instead",
                {"uri": uri},
            )
        if self._resources.is_static(uri):
            return types.EmptyResult()
        with ExitStack() as leaving:
            (subscription,) = await self._watch_all(ctx, [uri], leaving)
            leaving.pop_all()
        await self.unsubscribe(ctx, types.UnsubscribeRequestParams(uri=uri))
        watches, background = self._watching(ctx), ctx.lifespan_context
        _subscribed(connection, watches)[uri] = subscription
        background.start(partial(self._tell, connection, watches, subscription))
        return types.EmptyResult()

    async def unsubscribe(
        self, ctx: Context, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        """Stop notifying an older client about a call."""
        watches = self._watching(ctx)
        subscription = _subscribed(connection_of(ctx), watches).pop(params.uri, None)
        if subscription is not None:
            watches.cancel(subscription)
        return types.EmptyResult()

    async def _watch_all(
        self, ctx: Context, uris: list[str], leaving: ExitStack
    ) -> list[Subscription]:
        """Watch those of `uris` that can be watched, until `leaving` is closed.

        Calls above the limit are not read.

        Raises:
            MCPError: None of them can be watched.
        """
        watches = self._watching(ctx)
        taken: list[Subscription] = []
        refusals: dict[str, MCPError] = {}
        for uri in uris:
            if self._resources.is_static(uri):
                continue
            try:
                taken.append(self._take(ctx, watches, uri))
            except MCPError as refusal:
                refusals[uri] = refusal
            else:
                leaving.callback(watches.cancel, taken[-1])
        limit = anyio.Semaphore(_AT_ONCE)

        async def watch(subscription: Subscription) -> None:
            async with limit:
                failure = await watches.watch(subscription)
            if failure is not None:
                refusals[subscription.name] = unreadable(subscription.name, failure)

        async with anyio.create_task_group() as tasks:
            for subscription in taken:
                tasks.start_soon(watch, subscription)
        watched = [subscription for subscription in taken if subscription.name not in refusals]
        if refusals and not watched:
            raise next(refusals[uri] for uri in uris if uri in refusals)
        return watched

    def _take(self, ctx: Context, watches: Watches, uri: str) -> Subscription:
        """Reserve a watch for a call.

        Raises:
            MCPError: The caller may not read the call, or watches too many already.
        """
        reader = _SubscriptionReader(
            self._permissions, self._resources.call(uri), caller_of(ctx), current_grant()
        )
        is_heard = partial(self._is_heard, connection_of(ctx).session_id)
        subscription = Subscription(principal_of(ctx), uri, reader.seen(), reader, is_heard)
        try:
            watches.add(subscription)
        except TooManyWatches as full:
            raise MCPError(types.INVALID_REQUEST, f"{full}.", {"uri": uri}) from full
        return subscription

    async def _tell(
        self, connection: Connection, watches: Watches, subscription: Subscription
    ) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._attend, watches, subscription)
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                async for uri in subscription.changes():
                    await connection.send_resource_updated(uri)
            tasks.cancel_scope.cancel()
        known = _subscribed(connection, watches)
        if known.get(subscription.name) is subscription:
            del known[subscription.name]

    async def _attend(self, watches: Watches, subscription: Subscription) -> None:
        """Update whether a subscription is heard whenever streams open or close."""
        while True:
            watches.attend(subscription)
            await self._permissions.runtime.streams.changed()

    def _is_heard(self, session: str | None) -> bool:
        """Return whether a session has an open stream; a request without one is a stream."""
        return session is None or self._permissions.runtime.streams.is_open(session)

    def _watching(self, ctx: Context) -> Watches:
        return self._permissions.runtime.watches(ctx.lifespan_context)


@dataclass(slots=True, eq=False)
class _SubscriptionReader:
    """Reads a call for one principal, with the current grant of their token."""

    permissions: Permissions
    sid: str
    caller: Caller
    grant: Grant | None

    async def topic(self) -> Topic | None:
        """Return what they may watch now; None if they may no longer read the call."""
        if self.grant is None:
            return self.seen()
        runtime = self.permissions.runtime
        operation = self.permissions.operations[_READING]
        renewed = await renewed_for(operation, self.grant, runtime.clock())
        if renewed is None:
            return None
        self.grant = renewed
        topic = self.seen()
        try:
            judge_account(
                await runtime.policy(self.caller.principal, renewed.overrides),
                topic.account_sid,
            )
        except PolicyDenied:
            return None
        return topic

    def seen(self) -> Topic:
        """Return what they could watch when the grant was last checked."""
        overrides = self.grant.overrides if self.grant else None
        access = self.permissions.runtime.access_for(overrides)
        return Topic(access, access.account_sid, self.sid)

    async def fetch(self) -> Outcome:
        """Return the outcome of reading the call."""
        overrides = self.grant.overrides if self.grant else None
        with request_context(None, self.caller.principal):
            return await self.permissions.read(_READING, {"sid": self.sid}, self.caller, overrides)


async def _publish(
    watched: list[Subscription], bus: InMemorySubscriptionBus, handler: ListenHandler
) -> None:
    """Send changes to a stream, and close it when no more changes are possible."""

    async def forward(subscription: Subscription) -> None:
        async for uri in subscription.changes():
            await bus.publish(ResourceUpdated(uri=uri))

    async with anyio.create_task_group() as tasks:
        for subscription in watched:
            tasks.start_soon(forward, subscription)
    handler.close()


def _subscribed(connection: Connection, watches: Watches) -> dict[str, Subscription]:
    """Return the subscriptions of a connection, which end with it."""
    known: dict[str, Subscription] | None = connection.state.get(_STATE)
    if known is None:
        known = connection.state[_STATE] = {}
        connection.exit_stack.callback(_cancel_all, known, watches)
    return known


def _cancel_all(known: dict[str, Subscription], watches: Watches) -> None:
    for subscription in known.values():
        watches.cancel(subscription)
