"""Logs, traces and metrics, correlation of requests, redaction of secrets."""
