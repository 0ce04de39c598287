"""Compare the audit log with the reported results and with what was done."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calls_mcp.audit.verification import verify
from tests.audit_records import lines_in
from tests.chaos.model import Attempt, Model, deletion, kind_of, require
from tests.chaos.world import require_secrecy

Ending = tuple[str, str, str]
"""A marker, the reported outcome, and the SID of the call."""

_TAKEN_EFFECT = ("done", "outcome_unknown")


def check_audit(file: Path, model: Model) -> int:
    """Check that all records are in order, and return their number.

    Raises:
        Violation: The chain is broken, or something done or reported is not recorded.
    """
    if not file.exists():
        require(not model.acted, "there is no audit log")
        return 0
    lines = lines_in(file)
    require_secrecy("\n".join(lines))
    report = verify(file)
    require(not report.problems, "the audit log is not in order", report.problems)
    recorded = Counter(_recorded([json.loads(line) for line in lines]))
    for marker, acted in model.acted.items():
        count = sum(n for (mark, _, _), n in recorded.items() if mark == marker)
        require(count >= acted, "done, but not recorded", marker)
    missing = Counter(_told(model.attempts)) - recorded
    require(not missing, "told, but not recorded", missing)
    return report.records


def _recorded(records: list[dict[str, Any]]) -> Iterator[Ending]:
    """Return the changes that took effect according to the log, or may have."""
    begun = {record["id"]: record for record in records if record["phase"] == "before"}
    for record in records:
        kind = record.get("error_kind") or record.get("outcome")
        if record["phase"] == "after" and kind in _TAKEN_EFFECT:
            yield _marker(begun[record["id"]]), kind, record.get("sid", "")


def _marker(record: dict[str, Any]) -> str:
    if record["tool"] == "delete_call":
        return deletion(record["sid"])
    arguments = record["arguments"]
    return str(arguments.get("url") or arguments.get("status_callback"))


def _told(attempts: list[Attempt]) -> Iterator[Ending]:
    for attempt in attempts:
        kind = kind_of(attempt.told)
        if attempt.told is not None and kind in _TAKEN_EFFECT:
            placed = attempt.told.get("call", {}).get("sid", "")
            yield attempt.change.marker, kind, placed or attempt.change.sid
