"""Where confirmations and counters live: in memory, in an SQLite file, or in Redis.

`memory:` is for one process and forgets everything with it. `sqlite:///FILE` outlives a restart and
is shared by the processes of one machine (four slashes begin an absolute path). `redis://…` and
`rediss://…` are shared by replicas anywhere.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from calls_mcp.errors import ConfigurationError
from calls_mcp.storage.unavailable import StoreUnavailable, Unrecorded
from calls_mcp.store.docket import Case, Docket, Filed, Place, Queue, Ruling
from calls_mcp.store.memory import MemoryStore
from calls_mcp.store.record import Fate, Keeping, Pending, Store, unheard

__all__ = [
    "Case",
    "Docket",
    "Fate",
    "Filed",
    "Keeping",
    "MemoryStore",
    "Pending",
    "Place",
    "Queue",
    "Ruling",
    "Store",
    "StoreUnavailable",
    "Unrecorded",
    "open_store",
    "unheard",
]

_SQLITE = "sqlite:///"
_REDIS = ("redis://", "rediss://")


@asynccontextmanager
async def open_store(url: str, keeping: Keeping | None = None) -> AsyncGenerator[Store]:
    """The store at `url`, closed at the end. Redis need not answer yet; `ping` tells.

    Raises:
        ConfigurationError: The URL is of no known kind, its file can't be used, or its library is
            not installed. The message never repeats the URL, which may hold a password.
    """
    store = await _open(url, keeping or Keeping())
    try:
        yield store
    finally:
        with anyio.CancelScope(shield=True):
            await store.aclose()


async def _open(url: str, keeping: Keeping) -> Store:
    if url == "memory:":
        return MemoryStore(keeping)
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        from calls_mcp.store.sqlite import open_sqlite  # noqa: PLC0415

        return await open_sqlite(url.removeprefix(_SQLITE), keeping)
    if url.startswith(_REDIS):
        return _redis(url, keeping)
    raise ConfigurationError(
        "CALLS_MCP_STATE_URL is none of memory:, sqlite:///FILE (sqlite:////FILE from the root), "
        "and redis://HOST:PORT/NUMBER."
    )


def _redis(url: str, keeping: Keeping) -> Store:
    try:
        from calls_mcp.store.redis import open_redis  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] != "redis":
            raise
        raise ConfigurationError(
            "CALLS_MCP_STATE_URL names Redis, whose library is not installed: "
            "pip install 'calls-mcp[redis]'"
        ) from missing
    return open_redis(url, keeping)
