"""Detect that an SQLite file was restored, so that no confirmation is used twice.

A generation is a random text that each claim of a confirmation renews, in the database and in a
file beside it. If a backup is restored, the two differ. A generation also names the boot of the
machine, because restoring a whole disk brings both back. The file need not be synced: a power
failure may lose its last content, but it also ends the boot that this content names.
"""

import secrets
import sqlite3
from contextlib import suppress
from functools import cache
from math import inf
from pathlib import Path

_KEY = "generation"
_NOTED = "SELECT text FROM notes WHERE key = ?"
_NOTE = "INSERT OR REPLACE INTO notes (key, text, until) VALUES (?, ?, ?)"
_REVOKE_UNUSED = "UPDATE confirmations SET revoked = 'restored' WHERE claimed_at IS NULL"


def revoke_if_restored(db: sqlite3.Connection, path: Path | None) -> None:
    """Revoke all unused confirmations if the database at `path` may not know that one was used.

    A database in memory (`path` is None) is never restored.

    Raises:
        OSError: The file beside the database can't be read or written.
    """
    if path is None:
        return
    noted, kept = _noted(db), _kept(path)
    if noted and noted == kept and noted.startswith(_boot_id()):
        return
    if noted or kept:
        db.execute(_REVOKE_UNUSED)
    renew(db, path)


def renew(db: sqlite3.Connection, path: Path | None) -> None:
    """Begin another generation. If this or the transaction fails, the database counts as restored.

    Raises:
        OSError: The file beside the database can't be written.
    """
    if path is None:
        return
    generation = f"{_boot_id()} {secrets.token_hex(16)}"
    db.execute(_NOTE, (_KEY, generation, inf))
    beside = _beside(path)
    beside.touch(0o600)
    beside.write_text(generation, "ascii")


def _noted(db: sqlite3.Connection) -> str:
    row: tuple[str] | None = db.execute(_NOTED, (_KEY,)).fetchone()
    return row[0] if row else ""


def _kept(path: Path) -> str:
    with suppress(FileNotFoundError):
        return _beside(path).read_text("ascii", "replace")
    return ""


def _beside(path: Path) -> Path:
    """Return the file beside the database, the same for all links to the database."""
    path = path.resolve()
    return path.with_name(f"{path.name}-claims")


@cache
def _boot_id() -> str:
    """Return what identifies this start of the machine; empty where it is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
