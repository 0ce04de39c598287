"""Reading the audit log."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from calls_mcp.audit.search import AuditReader
from tests.audit.logs import database_log


def test_an_export_can_be_read_by_several_threads_in_turn(tmp_path: Path) -> None:
    rows = AuditReader(database_log(tmp_path, 3)).rows()
    next(rows)
    with ThreadPoolExecutor(1) as other:
        assert len(other.submit(list, rows).result()) == 2
