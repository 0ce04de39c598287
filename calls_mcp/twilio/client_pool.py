"""The clients of each account of the Calls API, shared by all who use it."""

from collections.abc import Callable, Collection
from math import inf
from typing import TYPE_CHECKING

from calls_mcp.settings import Access

if TYPE_CHECKING:
    from calls_mcp.twilio.client import TwilioClient


class ClientPool:
    """One client for each access: all who share an account learn when its API keeps failing.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deadline = inf
        self._clients: dict[Access, TwilioClient] = {}

    def client(self, access: Access) -> "TwilioClient":
        """Return the client of this access."""
        from calls_mcp.twilio.client import TwilioClient  # noqa: PLC0415

        if access not in self._clients:
            self._clients[access] = TwilioClient(access, self._clock)
            self._clients[access].finish_by(self._deadline)
        return self._clients[access]

    def finish_by(self, deadline: float) -> None:
        """Have every request answered, or given up, by `deadline` (by anyio's clock)."""
        self._deadline = deadline
        for client in self._clients.values():
            client.finish_by(deadline)

    async def close_all_except(self, used: Collection[Access]) -> None:
        """Close the clients of all other accesses."""
        for access in [access for access in self._clients if access not in used]:
            await self._clients.pop(access).aclose()
