"""Where the database is unless a setting says otherwise."""

from pathlib import Path


def default_path(*, sandbox: bool = False) -> Path:
    """Return the path of this user's database, which need not exist. The sandbox has its own.

    It is relative if the user has no home directory.
    """
    from platformdirs import user_state_path  # noqa: PLC0415  # not every command needs it

    folder = user_state_path("calls-mcp", appauthor=False)
    return folder / ("sandbox.db" if sandbox else "calls.db")
