"""Entries, logs, and ways to tamper with them."""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from calls_mcp.audit.log import AuditTable
from calls_mcp.audit.records import START, Authority, Entry, Fields, chain
from calls_mcp.tools.catalog import Json, load_operations

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
    """Return the fields of a record before it is chained."""
    return {
        "time": f"2026-01-31T09:00:{number:02}.000Z",
        "phase": phase,
        "id": f"{number:04}",
        "tool": "create_call",
        "sid": SID,
        "arguments": {"to": "+16175551212"},
    }


def database_log(folder: Path, count: int) -> Path:
    path = folder / "audit.db"
    append(path, *map(fields, range(count)))
    return path


def append(path: Path, *records: Fields) -> None:
    table = AuditTable(path, 30)
    for record in records:
        table.append(record, time.monotonic() + 30)
    table.close()


def exported_log(folder: Path, count: int) -> Path:
    """Write a log as JSON lines."""
    path, last = folder / "audit.jsonl", START
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number in range(count):
            record = chain(fields(number), last)
            last = record.link
            file.write(record.line + "\n")
    return path


def spoil(path: Path, statement: str, values: Sequence[object] = ()) -> None:
    """Change a database as an intruder would, without the triggers."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TRIGGER IF EXISTS audit_keeps")
        database.execute("DROP TRIGGER IF EXISTS audit_stays")
        database.execute(statement, values)
        database.commit()
