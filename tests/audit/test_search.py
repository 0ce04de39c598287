"""Reading the audit log."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from calls_mcp.audit import search
from calls_mcp.audit.records import Fields
from calls_mcp.audit.search import AuditReader, Filter, Origin
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
    before = fields(phase="before") | request | {"id": "change", "principal": "front desk"}
    before["decided_by"] = "ann"
    after = fields(phase="after") | {"id": "change"}
    replayed = fields() | request  # later than the call
    path = tmp_path / "audit.db"
    append(path, asked, *OTHERS, approved, before, *OTHERS, after, replayed, *OTHERS)
    reader = AuditReader(path)
    assert [record["seq"] for record in reader.about(SID)] == [1, 11, 12, 22]
    assert reader.origins([SID]) == {SID: Origin("front desk", "ann")}


def test_a_log_with_an_edited_record_gets_its_indexes(tmp_path: Path) -> None:
    path = database_log(tmp_path, 3)
    spoil(path, "UPDATE audit SET body = CASE seq WHEN 1 THEN x'ff' ELSE '{' END WHERE seq < 3")
    for name in ("sid", "id", "approval"):
        spoil(path, f"DROP INDEX audit_{name}")
    spoil(path, "ALTER TABLE confirmations RENAME COLUMN revoked TO run")
    spoil(path, "PRAGMA user_version = 6")
    append(path, fields(3))
    assert [record["seq"] for record in AuditReader(path).about(SID)] == [3, 4]


def change(name: str, *, is_approved: bool) -> list[Fields]:
    """Return the records of a change that was sent, with or without an operator's approval."""
    approval = {"approval_id": name} if is_approved else {}
    asked = [fields() | approval | {"id": f"{name} {word}"} for word in ("asked", "approved")]
    before = fields(phase="before") | approval | {"id": name, "rule": name}
    return [*(asked if is_approved else []), before, fields(phase="after") | {"id": name}]


@pytest.mark.parametrize("wanted", [Filter(), Filter(phase="before"), Filter(text=" ONE")])
def test_every_change_is_on_one_page_with_all_its_records(tmp_path: Path, wanted: Filter) -> None:
    path = tmp_path / "audit.db"
    one, three = (change(f"{name} one", is_approved=True) for name in "ac")
    two = change("b one", is_approved=False)
    append(path, *one[:3], *two, *three[:1], *one[3:], *three[1:])
    reader, before, pages = AuditReader(path), None, list[list[list[object]]]()
    while not pages or before is not None:
        found, before = reader.changes(wanted, 1, before)
        pages.append([[each.fields["seq"] for each in records] for records in found])
    order = [[[6, 8, 9, 10]], [[1, 2, 3, 7]], [[4, 5]]]
    assert pages == (order if wanted.phase == "" else [order[0], order[2], order[1]])


def test_a_change_with_many_records_is_shown_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_LARGEST", 3)
    path = tmp_path / "audit.db"
    append(path, *(fields(number) | {"approval_id": "a"} for number in range(7)))
    reader, before, found = AuditReader(path), None, list[list[object]]()
    while not found or before is not None:
        page, before = reader.changes(Filter(), 2, before)
        found += [[each.fields["seq"] for each in records] for records in page]
    assert found == [[5, 6, 7], [2, 3, 4], [1]]
