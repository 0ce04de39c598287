"""Entries, logs, and ways to spoil them."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from calls_mcp.audit import Authority, Entry
from calls_mcp.audit.chain import Fields
from calls_mcp.audit.database import Database
from calls_mcp.audit.lines import LinesFile
from calls_mcp.audit.sinks import Sink
from calls_mcp.catalog import Json, load_operations

CREATE = load_operations()["create_call"]
ACCOUNT = "AC" + "0" * 32
SID = "CA" + "1" * 32
PLACING: Mapping[str, Json] = {
    "to": "+16175551212",
    "from": "+15005550006",
    "url": "https://example.com/voice",
}
ENTRY = Entry(
    principal="tester",
    operation=CREATE,
    action="place",
    arguments=PLACING,
    decision="allowed",
    account_sid=ACCOUNT,
    rule="confirm.place",
    authority=Authority("token"),
    trace_id="0af7651916cd43dd8448eb211c80319c",
)


def entry(**arguments: Json) -> Entry:
    return replace(ENTRY, arguments=arguments)


def fields(number: int = 0, phase: str = "decided") -> Fields:
    """Fields of a record, as a sink gets them."""
    return {
        "time": f"2026-01-31T09:00:{number:02}.000Z",
        "phase": phase,
        "id": f"{number:04}",
        "tool": "create_call",
        "sid": SID,
        "arguments": {"to": "+16175551212"},
    }


def fill(sink: Sink, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        sink.append(fields(number))
    sink.close()


def lines_log(directory: Path, count: int) -> Path:
    path = directory / "audit.jsonl"
    fill(LinesFile(path), count)
    return path


def database_log(directory: Path, count: int) -> Path:
    path = directory / "audit.db"
    fill(Database(path), count)
    return path


def records_in(path: Path) -> list[dict[str, Any]]:
    """The records in a file, or in a database if it is one."""
    if path.suffix == ".db":
        with closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT body FROM audit ORDER BY seq").fetchall()
        return [json.loads(body) for (body,) in rows]
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def spoil(path: Path, statement: str, values: Sequence[object] = ()) -> None:
    """Change a database as an intruder would, who minds no trigger."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TRIGGER audit_keeps")
        database.execute("DROP TRIGGER audit_stays")
        database.execute(statement, values)
        database.commit()
