"""Where state is kept: an SQLite file, memory, or Redis.

By default that is the user's own database (see `default_path`), created at the first change. It is
shared by the processes of one user. `sqlite:///FILE` is another file (four slashes begin an
absolute path), `memory:` belongs to one process and is lost with it, and `redis://…` and
`rediss://…` are shared by replicas on any machine.
"""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio import to_thread

from calls_mcp.errors import ConfigurationError
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.location import SQLITE, default_path, file_of
from calls_mcp.storage.records import (
    Action,
    ApprovalRequest,
    Binding,
    ConfirmationState,
    Exhausted,
    Limit,
    OperatorDecision,
    PendingConfirmation,
    PendingPage,
    Position,
    StorageOptions,
)
from calls_mcp.storage.sqlite import SqliteStorage
from calls_mcp.storage.sqlite_file import Database
from calls_mcp.storage.unavailable import explained

__all__ = [
    "Action",
    "ApprovalRequest",
    "Binding",
    "ConfirmationState",
    "Database",
    "Exhausted",
    "Limit",
    "OperatorDecision",
    "PendingConfirmation",
    "PendingPage",
    "Position",
    "Storage",
    "StorageOptions",
    "default_path",
    "open_storage",
]

_REDIS = ("redis://", "rediss://")


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
    storage = await _open(url, options or StorageOptions(), sandbox=sandbox, is_needed=is_needed)
    try:
        yield storage
    finally:
        with anyio.CancelScope(shield=True):
            await storage.aclose()


async def _open(
    url: str | None, options: StorageOptions, *, sandbox: bool, is_needed: bool
) -> Storage:
    if url is None:
        database = Database(default_path(sandbox=sandbox), options.busy)
        if is_needed:
            await _require_usable(database)
        return SqliteStorage(database, options)
    if url == "memory:":
        return SqliteStorage(Database(None), options)
    if url.startswith(SQLITE) and len(url) > len(SQLITE):
        database = Database(file_of(url), options.busy)
        await _require_usable(database)
        return SqliteStorage(database, options)
    if url.startswith(_REDIS):
        return _redis(url, options)
    raise ConfigurationError(
        "CALLS_MCP_STATE_URL is none of memory:, sqlite:///FILE (sqlite:////FILE from the root), "
        "and redis://HOST:PORT/NUMBER."
    )


async def _require_usable(database: Database) -> None:
    try:
        await to_thread.run_sync(database.require_writable)
    except (sqlite3.Error, OSError) as unusable:
        await database.aclose()
        raise ConfigurationError(explained(database.where, unusable)) from unusable


def _redis(url: str, options: StorageOptions) -> Storage:
    try:
        from calls_mcp.storage.redis import open_redis  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] != "redis":
            raise
        raise ConfigurationError(
            "CALLS_MCP_STATE_URL names Redis, whose library is not installed: "
            "pip install 'calls-mcp[redis]', or in a checkout: pip install '.[redis]'"
        ) from missing
    return open_redis(url, options)
