"""Where the audit log is."""

from pathlib import Path

from calls_mcp.settings import Settings
from calls_mcp.storage.location import default_path, file_of


def audit_path(settings: Settings, *, sandbox: bool = False) -> Path | None:
    """Return the database that has the audit log, or None if records go to stderr.

    Unless a setting says otherwise, it is the one that has the state. Where that is in Redis, it is
    this user's own database. Where it is in memory, nothing is to be written to a disk.
    """
    if chosen := settings.audit.database:
        return chosen if isinstance(chosen, Path) else None
    if settings.storage.is_memory:
        return None
    return file_of(settings.storage.location, sandbox=sandbox) or default_path(sandbox=sandbox)
