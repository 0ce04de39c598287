"""The audit log: every attempt to change something, in an append-only SQLite table chained by hash.

A change has two records: one before its request is sent, and one after. A refusal or a request for
confirmation has one. `search` queries the log, and `verification` finds edited, removed and
inserted records.
"""
