"""Open the store at a URL."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from calls_mcp.errors import ConfigurationError
from calls_mcp.storage.database import SQLITE, database_path
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.records import StorageOptions
from calls_mcp.storage.sqlite import SqliteStorage


@asynccontextmanager
async def open_storage(
    url: str | None = None,
    options: StorageOptions | None = None,
    *,
    sandbox: bool = False,
    is_needed: bool = False,
) -> AsyncGenerator[Storage]:
    """Open the store at `url`, by default the user's own; close it when the context closes.

    A file is created at the first change. A file in `url` is checked now, and with `is_needed` the
    default one too. Redis does not have to answer yet.

    Raises:
        ConfigurationError: The URL is malformed, its file can't be used, or the Redis library is
            not installed. The message does not repeat the URL, which may contain a password.
    """
    storage = _storage(url, options or StorageOptions(), sandbox=sandbox)
    try:
        if isinstance(storage, SqliteStorage) and (url or is_needed):
            await storage.require_usable()
        yield storage
    finally:
        with anyio.CancelScope(shield=True):
            await storage.aclose()


def _storage(url: str | None, options: StorageOptions, *, sandbox: bool) -> Storage:
    path = database_path(url, sandbox=sandbox)
    if url == "memory:" or (path and url != SQLITE):
        return SqliteStorage(path, options)
    if url and url.startswith(("redis://", "rediss://")):
        return _redis(url, options)
    raise ConfigurationError(
        "CALLS_MCP_STATE_URL must be memory:, sqlite:///FILE (sqlite:////FILE for an absolute "
        "path), or redis://HOST:PORT/NUMBER."
    )


def _redis(url: str, options: StorageOptions) -> Storage:
    try:
        from calls_mcp.storage.redis import open_redis  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] != "redis":
            raise
        raise ConfigurationError(
            "CALLS_MCP_STATE_URL needs the Redis library, which is not installed. In the checkout "
            "of calls-mcp, run: pip install '.[redis]'"
        ) from missing
    return open_redis(url, options)
