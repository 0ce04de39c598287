"""Where a store is, and where this user's own database is."""

from pathlib import Path

SQLITE = "sqlite:///"


def default_path(*, sandbox: bool = False) -> Path:
    """Return the path of this user's database, which need not exist. The sandbox has its own.

    It is relative if the user has no home directory.
    """
    from platformdirs import user_state_path  # noqa: PLC0415  # not every command needs it

    folder = user_state_path("calls-mcp", appauthor=False)
    return folder / ("sandbox.db" if sandbox else "calls.db")


def file_of(url: str | None, *, sandbox: bool = False) -> Path | None:
    """Return the file of the store at `url`, by default this user's own; None if it has none."""
    if url is None:
        return default_path(sandbox=sandbox)
    return Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None
