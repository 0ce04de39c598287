"""Record every attempt to change something: append-only, chained by hash, in an SQLite table.

A change leaves two records, one before its request is sent and one after; a refusal or a question
leaves one. `search` queries the log, and `verification` finds what was edited, removed or inserted
since.
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
