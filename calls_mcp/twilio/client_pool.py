"""The connections to each account of the Calls API, shared by all who use it."""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from calls_mcp.settings import Access

if TYPE_CHECKING:
    from calls_mcp.twilio.client import TwilioClient


class _Connected(NamedTuple):
    twilio: "TwilioClient"
    watched: ExitStack


class ClientPool:
    """One client for each access, whoever uses it; `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends = inf
        self._connected: dict[Access, _Connected] = {}

    def client(self, access: Access) -> "TwilioClient":
        """The client of this access."""
        if access not in self._connected:
            self._connected[access] = self._connect(access)
        return self._connected[access].twilio

    def finish_by(self, deadline: float) -> None:
        """Have everything answered, or given up, by `deadline` (by anyio's clock)."""
        self._ends = deadline
        for connected in self._connected.values():
            connected.twilio.finish_by(deadline)

    async def close_all_except(self, used: Collection[Access]) -> None:
        """Close the connections of all others."""
        for access in [access for access in self._connected if access not in used]:
            connected = self._connected.pop(access)
            connected.watched.close()
            await connected.twilio.aclose()

    def _connect(self, access: Access) -> _Connected:
        from calls_mcp.observability import telemetry  # noqa: PLC0415
        from calls_mcp.twilio.client import TwilioClient  # noqa: PLC0415

        twilio, watched = TwilioClient(access, self._clock), ExitStack()
        twilio.finish_by(self._ends)
        watched.enter_context(telemetry.observe_circuit(lambda: twilio.circuit))
        return _Connected(twilio, watched)
