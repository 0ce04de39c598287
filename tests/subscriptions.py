"""Subscriptions of clients of both protocol versions."""

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import httpx2
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import Client, StdioServerParameters
from mcp.client.session import MessageHandlerFnT
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import (
    EmptyResult,
    ResourceUpdatedNotification,
    SubscribeRequest,
    SubscribeRequestParams,
    UnsubscribeRequest,
    UnsubscribeRequestParams,
)

from calls_mcp.emulator import LoggedRequest
from tests.harness import Era, Harness
from tests.plain_http import NO_CERTIFICATES
from tests.until import until

Handle = MessageHandlerFnT | None
Connect = Callable[[Era, Handle], AbstractAsyncContextManager[Client]]
"""Connects a client of an era, whose messages go to a handler."""


class Updates:
    """The notifications of a client, in order."""

    def __init__(self, told: MemoryObjectReceiveStream[str]) -> None:
        self._told = told

    async def next(self) -> str:
        """Return the URI of the next changed resource; fail if the stream ends first."""
        with anyio.fail_after(30):
            return await self._told.receive()

    async def rest(self) -> list[str]:
        """Return the URIs until the stream ends."""
        with anyio.fail_after(30):
            return [uri async for uri in self._told]


@asynccontextmanager
async def subscribed(connect: Connect, era: Era, *uris: str) -> AsyncGenerator[Updates]:
    """Subscribe a client to `uris`; the stream of a 2026-07-28 client ends by itself."""
    send, receive = anyio.create_memory_object_stream[str](100)

    async def handle(message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            await send.send(message.params.uri)

    is_legacy = era == "legacy"
    async with send, receive, connect(era, handle if is_legacy else None) as client:
        if is_legacy:
            for uri in uris:
                await subscribe(client, uri)
            yield Updates(receive)
            return
        async with (
            client.listen(resource_subscriptions=uris) as subscription,
            anyio.create_task_group() as tasks,
        ):
            assert subscription.honored.resource_subscriptions == [*uris]

            async def pass_on(to: MemoryObjectSendStream[str]) -> None:
                async with to:
                    async for event in subscription:
                        assert isinstance(event, ResourceUpdated)
                        await to.send(event.uri)

            tasks.start_soon(pass_on, send)
            yield Updates(receive)
            tasks.cancel_scope.cancel()


async def subscribe(client: Client, uri: str) -> None:
    """Subscribe as an older client. The SDK's own method gives a warning."""
    request = SubscribeRequest(params=SubscribeRequestParams(uri=uri))
    await client.session.send_request(request, EmptyResult)


async def unsubscribe(client: Client, uri: str) -> None:
    request = UnsubscribeRequest(params=UnsubscribeRequestParams(uri=uri))
    await client.session.send_request(request, EmptyResult)


def in_memory(harness: Harness) -> Connect:
    """Connects clients in memory."""

    def connect(era: Era, handle: Handle) -> AbstractAsyncContextManager[Client]:
        return Client(harness.server, mode=era, message_handler=handle, cache=None)

    return connect


def over_stdio(**variables: str) -> Connect:
    """Connects clients to a new process."""
    server = StdioServerParameters(command=sys.executable, args=["-m", "calls_mcp"], env=variables)

    def connect(era: Era, handle: Handle) -> AbstractAsyncContextManager[Client]:
        return Client(server, mode=era, message_handler=handle, cache=None)

    return connect


def over_http(url: str, token: str = "") -> Connect:
    """Connects clients to a service."""

    @asynccontextmanager
    async def connect(era: Era, handle: Handle) -> AsyncGenerator[Client]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            httpx2.AsyncClient(
                headers=headers, timeout=60, verify=NO_CERTIFICATES, trust_env=False
            ) as http,
            Client(
                streamable_http_client(url, http_client=http),
                mode=era,
                message_handler=handle,
                cache=None,
            ) as client,
        ):
            yield client

    return connect


def looks(harness: Harness, sid: str) -> int:
    """Return how often a call was read."""
    return sum(_is_about(entry, sid) for entry in harness.reads)


async def looked(harness: Harness, sid: str, times: int) -> None:
    """Wait until a call was read this many more times."""
    goal = looks(harness, sid) + times
    await until(lambda: looks(harness, sid) >= goal)


async def left_alone(harness: Harness, sid: str) -> bool:
    """Return whether a call is no longer read while another one is."""
    async with harness.connect(name="placing") as agent:
        other = await agent.place()
    async with subscribed(in_memory(harness), "auto", f"calls://call/{other}"):
        await looked(harness, other, 5)  # a read of the first may have been in progress
        before = looks(harness, sid)
        await looked(harness, other, 5)
    return looks(harness, sid) == before


def _is_about(entry: LoggedRequest, sid: str) -> bool:
    return entry.path.endswith(f"{sid}.json")
