"""HTTP connections that an application can cut."""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HANG_UP = "emulator.hang_up"
"""The type of a message that an application sends to cut the connection."""


class Connection(H11Protocol):
    """Uvicorn's protocol, with a way to close the connection in the state of each scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take the connection on."""
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, HANG_UP: transport.close}


def cuttable(app: ASGIApp) -> ASGIApp:
    """ASGI middleware that obeys `HANG_UP`."""

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def obey(message: Message) -> None:
            if message["type"] != HANG_UP:
                await send(message)
                return
            scope["state"][HANG_UP]()
            while (await receive())["type"] != "http.disconnect":
                pass

        await app(scope, receive, obey)

    return outer
