"""Check what the server reads and writes: the policy, the state store, the audit log, telemetry."""

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple
from importlib.util import find_spec
from pathlib import Path

from calls_mcp.audit import audit_path, obstacle
from calls_mcp.cli.doctor_checks import Finding
from calls_mcp.errors import ConfigurationError, StoreUnavailable
from calls_mcp.guard.policy import Policy, load_policy, summary
from calls_mcp.observability.redaction import one_line
from calls_mcp.settings import Settings
from calls_mcp.storage import StorageOptions, open_storage
from calls_mcp.storage.database import NEWER, database_path, is_unusable
from calls_mcp.storage.interface import error_text

_STATE = "export CALLS_MCP_STATE_URL=…"
_INSTALL = "pip install 'calls-mcp[otel]', or in a checkout: pip install '.[otel]'"
_PATIENCE = 2.0  # seconds for which a file may be in use
_OTEL = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http", "prometheus_client")


def check_policy(settings: Settings) -> list[Finding]:
    """Check the policy in use, and what the settings make of it."""
    file = settings.guard.policy
    try:
        policy = load_policy(file)
    except ConfigurationError as wrong:
        remedy = f"mend it, and try: calls-mcp policy check {file}"
        return [Finding("policy", "fatal", str(wrong), remedy)]
    policy = policy.under(settings.guard.confirm)
    what = str(file) if file else "the one that is shipped"
    shown = Finding(
        "policy", "ok", f"{what}; all of it: calls-mcp policy check", details=summary(policy)
    )
    return [shown, *_overrides(settings), *_unreachable_operator(policy, settings)]


def _overrides(settings: Settings) -> Iterator[Finding]:
    if settings.guard.read_only:
        message = "read-only: no call is placed, changed or deleted"
        yield Finding("policy", "note", message, "unset CALLS_MCP_READ_ONLY")
    elif settings.guard.confirm == "none":
        message = "nothing is confirmed but what the policy insists on"
        yield Finding("policy", "note", message, "unset CALLS_MCP_CONFIRM")


def _unreachable_operator(policy: Policy, settings: Settings) -> Iterator[Finding]:
    is_operators = "operator" in astuple(policy.confirm)
    if is_operators and settings.storage.is_memory:
        message = "the operator can't see what waits in the memory of a server: it is refused"
        yield Finding("policy", "problem", message, "unset CALLS_MCP_STATE_URL")


async def check_store(settings: Settings, *, sandbox: bool = False) -> Finding:
    """Check that the state store can be written to."""
    url = settings.storage.location
    if settings.storage.is_memory:
        message = "in memory: a restart forgets confirmations"
        return Finding("state store", "ok", message)
    path = database_path(url, sandbox=sandbox)
    try:
        async with open_storage(url, StorageOptions(timeout=_PATIENCE), sandbox=sandbox) as storage:
            await storage.ping()
    except ConfigurationError as wrong:
        remedy = _remedy(path, wrong.__cause__, _STATE) if path else _STATE
        return Finding("state store", "fatal", str(wrong), remedy)
    except StoreUnavailable as unavailable:
        reason = one_line(error_text(unavailable.__cause__ or unavailable))
        where = f"{path} " if path else ""
        message = f"{where}can't be used, so changes are refused: {reason}"
        cause = unavailable.__cause__
        remedy = _remedy(path, cause, _STATE) if path else _redis_remedy(cause)
        return Finding("state store", "problem", message, remedy)
    if path and not path.exists():
        return Finding("state store", "ok", f"{path} will be created at the first change")
    return Finding("state store", "ok", f"{path or 'Redis'} can be written to")


def _remedy(path: Path, cause: BaseException | None, other: str) -> str:
    """Return what to do about a file that can't be used; `other` selects another one."""
    if str(cause) == NEWER:
        return f"upgrade calls-mcp, or use another file: {other}"
    if isinstance(cause, sqlite3.Error) and is_unusable(cause):
        return f"use another file: {other}"
    if isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause):
        return f"end the program that keeps it locked, or use another file: {other}"
    make = "" if path.parent.exists() else f"mkdir -p {path.parent}, "
    return f"{make}let this user write to {path}, or: {other}"


def _redis_remedy(cause: BaseException | None) -> str:
    from redis.exceptions import AuthenticationError, ResponseError  # noqa: PLC0415

    if isinstance(cause, AuthenticationError):
        return "correct the user and the password: export CALLS_MCP_STATE_URL=redis://USER:…@HOST"
    if isinstance(cause, ResponseError):
        return f"correct what Redis complains about, or use another: {_STATE}"
    return f"start Redis there, or: {_STATE}"


def check_audit(settings: Settings, *, sandbox: bool = False) -> list[Finding]:
    """Check that changes can be recorded; without that, none is made."""
    path = audit_path(settings, sandbox=sandbox)
    if path is None:
        message = "goes to stderr: collect that, or it is lost"
        remedy = "export CALLS_MCP_AUDIT_DATABASE=FILE"
        return [Finding("audit log", "note", message, remedy)]
    if found := obstacle(path, _PATIENCE):
        message = f"{path}: {error_text(found)}; changes are refused"
        remedy = _remedy(path, found, "export CALLS_MCP_AUDIT_DATABASE=FILE")
        return [Finding("audit log", "problem", message, remedy)]
    if not path.exists():
        return [Finding("audit log", "ok", f"{path} will be created at the first change")]
    return [Finding("audit log", "ok", f"{path} can be written to")]


def check_telemetry(settings: Settings) -> list[Finding]:
    """Check that the libraries for telemetry are installed, if it is switched on."""
    if settings.telemetry.export == "off" and not settings.telemetry.metrics_address:
        return []
    if missing := [name for name in _OTEL if not _is_installed(name)]:
        message = f"{', '.join(missing)}: not installed"
        return [Finding("telemetry", "fatal", message, _INSTALL)]
    where = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    sent = settings.telemetry.export == "otlp"
    if sent and not where:
        message = "sent to http://localhost:4318, for nothing else is set"
        return [Finding("telemetry", "note", message, "export OTEL_EXPORTER_OTLP_ENDPOINT=URL")]
    return [Finding("telemetry", "ok", "what it needs is installed")]


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
