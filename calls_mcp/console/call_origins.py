"""Who requested and who approved each call, from the audit log."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from calls_mcp.audit.search import AuditReader
from calls_mcp.tools.catalog import Json


@dataclass(frozen=True, slots=True)
class Origin:
    """The principal that requested a call, and the operator who approved it, if any."""

    requester: str
    approver: str = ""


NOWHERE = Origin("")
"""The origin of a call that the audit log does not have."""


class CallOrigins:
    """Reads the origins from the audit log in `database`; each time, only the new records."""

    def __init__(self, database: Path | None) -> None:
        self._reader = AuditReader(database) if database else None
        self._last = 0
        self._changes: dict[str, Origin] = {}
        self._origins: dict[str, Origin] = {}
        self._reading = anyio.Lock()

    async def read(self) -> Mapping[str, Origin]:
        """Return the origins by call SID.

        Raises:
            ConfigurationError: The audit log can't be read.
        """
        if self._reader is not None:
            async with self._reading:
                records = await anyio.to_thread.run_sync(self._reader.placed, self._last)
                for self._last, record in records:
                    self._add(record)
        return self._origins

    def _add(self, record: Mapping[str, Json]) -> None:
        change, sid = record.get("id"), record.get("sid")
        if not isinstance(change, str):
            return
        if isinstance(sid, str) and (origin := self._changes.pop(change, None)):
            self._origins[sid] = origin
        elif record.get("phase") == "before":
            approver = record.get("decided_by") or ""
            self._changes[change] = Origin(str(record.get("principal", "")), str(approver))
