"""Reading the audit log."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from calls_mcp.audit import search
from calls_mcp.audit.search import AuditReader
from tests.audit.logs import SID, append, database_log, fields, spoil


def test_an_export_can_be_read_by_several_threads_in_turn(tmp_path: Path) -> None:
    rows = AuditReader(database_log(tmp_path, 3)).rows()
    next(rows)
    with ThreadPoolExecutor(1) as other:
        assert len(other.submit(list, rows).result()) == 2


OTHERS = [fields(number) | {"sid": f"CA{'2' * 32}"} for number in range(9)]


def test_the_records_about_a_call_are_found_however_old_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_FARTHEST", 3)
    request = {"sid": "", "approval_id": "a"}
    asked, approved = fields() | request, fields() | request
    before = fields(phase="before") | request | {"id": "change"}
    after = fields(phase="after") | {"id": "change"}
    replayed = fields() | request  # later than the call
    path = tmp_path / "audit.db"
    append(path, asked, *OTHERS, approved, before, *OTHERS, after, replayed, *OTHERS)
    reader = AuditReader(path)
    assert [record["seq"] for record in reader.about(SID)] == [1, 11, 12, 22]
    assert {sid: record["seq"] for sid, record in reader.placements([SID]).items()} == {SID: 12}


def test_a_log_with_an_edited_record_gets_its_indexes(tmp_path: Path) -> None:
    path = database_log(tmp_path, 3)
    spoil(path, "UPDATE audit SET body = CASE seq WHEN 1 THEN x'ff' ELSE '{' END WHERE seq < 3")
    for name in ("sid", "id", "approval"):
        spoil(path, f"DROP INDEX audit_{name}")
    spoil(path, "PRAGMA user_version = 6")
    append(path, fields(3))
    assert [record["seq"] for record in AuditReader(path).about(SID)] == [3, 4]
