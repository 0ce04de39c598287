"""The audit log as tests read it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def lines_in(database: Path) -> list[str]:
    """The records in a database, as they are written; none if there is no database yet."""
    if not database.exists():
        return []
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT body FROM audit ORDER BY seq").fetchall()
    return [body for (body,) in rows]


def records_in(database: Path) -> list[dict[str, Any]]:
    """The records in a database; none if there is no database yet."""
    return [json.loads(line) for line in lines_in(database)]
