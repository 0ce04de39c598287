"""Where state is kept: an SQLite file, memory, or Redis.

By default that is the user's own database (see `default_path`), created at the first change. It is
shared by the processes of one user. `sqlite:///FILE` is another file (four slashes begin an
absolute path), `memory:` belongs to one process and is lost with it, and `redis://…` and
`rediss://…` are shared by replicas on any machine.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from calls_mcp.errors import ConfigurationError
from calls_mcp.storage.database import SQLITE, database_path, default_path
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.models import (
    ApprovalRequest,
    Binding,
    ConfirmationState,
    Limit,
    LimitExceeded,
    OperatorDecision,
    PendingConfirmation,
    PendingPage,
    Position,
    StorageOptions,
)
from calls_mcp.storage.rate_limiter import RateLimiter
from calls_mcp.storage.sqlite import SqliteStorage

__all__ = [
    "ApprovalRequest",
    "Binding",
    "ConfirmationState",
    "Limit",
    "LimitExceeded",
    "OperatorDecision",
    "PendingConfirmation",
    "PendingPage",
    "Position",
    "RateLimiter",
    "Storage",
    "StorageOptions",
    "database_path",
    "default_path",
    "open_storage",
]


@asynccontextmanager
async def open_storage(
    url: str | None = None,
    options: StorageOptions | None = None,
    *,
    sandbox: bool = False,
    is_needed: bool = False,
) -> AsyncGenerator[Storage]:
    """Open the store at `url`, by default the user's own, and close it at the end.

    A file is created at the first change. A file that `url` names is checked now, and with
    `is_needed` the default one, too; Redis need not answer yet.

    Raises:
        ConfigurationError: The URL is of no known kind, its file can't be used, or its library is
            not installed. The message never repeats the URL, which may contain a password.
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
        "CALLS_MCP_STATE_URL is none of memory:, sqlite:///FILE (sqlite:////FILE from the root), "
        "and redis://HOST:PORT/NUMBER."
    )


def _redis(url: str, options: StorageOptions) -> Storage:
    try:
        from calls_mcp.storage.redis import open_redis  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] != "redis":
            raise
        raise ConfigurationError(
            "CALLS_MCP_STATE_URL names Redis, whose library is not installed. In the checkout of "
            "calls-mcp, run: pip install '.[redis]'"
        ) from missing
    return open_redis(url, options)
