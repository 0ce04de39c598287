"""Logs, traces, metrics, the current request, and redaction of secrets."""
