"""The audit log: every attempt to change something, in an append-only SQLite table chained by hash.

A change has two records: one before its request is sent, and one after. A refusal or a request for
confirmation has one. `search` queries the log, and `verification` finds edited, removed and
inserted records.
"""

from calls_mcp.audit.log import Attempt, AuditLog, audit_path, obstacle, open_audit
from calls_mcp.audit.masking import Numbers
from calls_mcp.audit.records import NOBODY, Authority, ConfirmedBy, Decision, Ending, Entry

__all__ = [
    "NOBODY",
    "Attempt",
    "AuditLog",
    "Authority",
    "ConfirmedBy",
    "Decision",
    "Ending",
    "Entry",
    "Numbers",
    "audit_path",
    "obstacle",
    "open_audit",
]
