"""HTTP connections that can be cut."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """Uvicorn's protocol; an application finds `hang_up` in the state of a request's scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take the connection on."""
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, "hang_up": transport.close}
