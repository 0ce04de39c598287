"""Logs, traces, metrics, request correlation, and redaction of secrets."""
