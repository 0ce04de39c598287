"""Who requested and who approved each call, from the audit log."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from calls_mcp.audit.search import AuditReader
from calls_mcp.tools.outcome import CallSummary


@dataclass(frozen=True, slots=True)
class Origin:
    """The principal that requested a call, and the operator who approved it, if any."""

    requester: str
    approver: str = ""


NOWHERE = Origin("")
"""The origin of a call that the audit log does not have."""


def root_sid(call: CallSummary) -> str:
    """Return the SID of the call that started this one, or its own."""
    return call.parent_call_sid or call.sid


async def read_origins(database: Path | None, sids: Iterable[str]) -> Mapping[str, Origin]:
    """Return the origins of calls by SID, from the audit log in `database`.

    Raises:
        ConfigurationError: The audit log can't be read.
    """
    if database is None:
        return {}
    records = await anyio.to_thread.run_sync(AuditReader(database).placements, sids)
    return {
        sid: Origin(str(record.get("principal", "")), str(record.get("decided_by") or ""))
        for sid, record in records.items()
    }
