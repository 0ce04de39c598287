"""The clients of the Calls API, one for each account."""

from collections.abc import Callable, Collection
from math import inf

from calls_mcp.settings import Access
from calls_mcp.twilio.client import TwilioClient


class ClientPool:
    """Keeps one client for each access, so that all users of an account share a circuit breaker.

    `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deadline = inf
        self._clients: dict[Access, TwilioClient] = {}

    def client(self, access: Access) -> TwilioClient:
        """Return the client for this access."""
        if access not in self._clients:
            self._clients[access] = TwilioClient(access, self._clock)
            self._clients[access].finish_by(self._deadline)
        return self._clients[access]

    def finish_by(self, deadline: float) -> None:
        """Give up all requests without a response at `deadline` (anyio's clock)."""
        self._deadline = deadline
        for client in self._clients.values():
            client.finish_by(deadline)

    async def aclose(self) -> None:
        """Close all clients."""
        await self.close_all_except(())

    async def close_all_except(self, used: Collection[Access]) -> None:
        """Close the clients of all other accesses."""
        for access in [access for access in self._clients if access not in used]:
            await self._clients.pop(access).aclose()
