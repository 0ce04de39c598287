"""The record of every attempt to change something: appended, chained by hash, never rewritten.

Each log is a file of JSON lines or an SQLite database. A change leaves two records in it, one
before its request is sent and one after; a refusal or a question leaves one. `verify` finds what
was edited, removed or put in since.
"""

from calls_mcp.audit.chain import parse
from calls_mcp.audit.discretion import Numbers
from calls_mcp.audit.glimpse import Glimpse, bears, mentions, time_in
from calls_mcp.audit.log import Attempt, AuditLog, obstacle, open_audit
from calls_mcp.audit.reading import Found, Search, newest, page
from calls_mcp.audit.record import NOBODY, Authority, ConfirmedBy, Decision, Ending, Entry
from calls_mcp.audit.report import Problem, Report, describe
from calls_mcp.audit.sinks import AuditUnavailable
from calls_mcp.audit.verify import rows, verify

__all__ = [
    "NOBODY",
    "Attempt",
    "AuditLog",
    "AuditUnavailable",
    "Authority",
    "ConfirmedBy",
    "Decision",
    "Ending",
    "Entry",
    "Found",
    "Glimpse",
    "Numbers",
    "Problem",
    "Report",
    "Search",
    "bears",
    "describe",
    "mentions",
    "newest",
    "obstacle",
    "open_audit",
    "page",
    "parse",
    "rows",
    "time_in",
    "verify",
]
