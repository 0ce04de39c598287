"""Heartbeats: how others see whether the process that made an approval request still runs.

A process has a key for each period of five seconds. It outlives the next period, so a heartbeat
that is late does not count as missing.
"""

from calls_mcp.storage import Storage

_PERIOD = 5.0  # seconds


class Heartbeat:
    """The heartbeat of the process `server`.

    Each method raises StoreUnavailable if the store can't be reached.
    """

    def __init__(self, storage: Storage, server: str) -> None:
        self._storage = storage
        self._server = server
        self._last = ""

    async def beat(self) -> None:
        """Note that the process runs."""
        key = _key(self._server, await self._storage.now())
        if key != self._last:
            await self._storage.set_if_absent(key, 2 * _PERIOD, self._server)
            self._last = key

    async def stop(self) -> None:
        """Note that the process is about to stop."""
        self._last = ""
        for key in _keys(self._server, await self._storage.now()):
            await self._storage.delete_if_equal(key, self._server)


async def is_alive(storage: Storage, server: str) -> bool:
    """Return whether the process `server` wrote a heartbeat in the last seconds.

    Raises:
        StoreUnavailable: The store can't be reached.
    """
    for key in _keys(server, await storage.now()):
        if await storage.get_with_ttl(key) is not None:
            return True
    return False


def _keys(server: str, now: float) -> tuple[str, str]:
    return _key(server, now), _key(server, now - _PERIOD)


def _key(server: str, now: float) -> str:
    return f"server:{server}:{now // _PERIOD:.0f}"
