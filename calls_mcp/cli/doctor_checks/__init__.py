"""Finds out what is wrong with a set-up, and what would mend it.

It reads a list of one call from the API. Nobody is rung, and nothing is written anywhere.
"""

from calls_mcp.cli.doctor_checks.api import examine_api
from calls_mcp.cli.doctor_checks.environment import discreet, examine_settings, secrets_in
from calls_mcp.cli.doctor_checks.files import (
    examine_audit,
    examine_policy,
    examine_store,
    examine_telemetry,
)
from calls_mcp.cli.doctor_checks.findings import Finding, Level
from calls_mcp.cli.doctor_checks.http_server import examine_http

__all__ = [
    "Finding",
    "Level",
    "discreet",
    "examine_api",
    "examine_audit",
    "examine_http",
    "examine_policy",
    "examine_settings",
    "examine_store",
    "examine_telemetry",
    "secrets_in",
]
