"""Check what the guard uses: the policy, the state store, the audit log and the webhook."""

import socket
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from calls_mcp.audit.log import audit_path, obstacle
from calls_mcp.cli.doctor_checks.finding import Finding
from calls_mcp.cli.doctor_checks.variables import mask_url
from calls_mcp.errors import ConfigurationError, StoreUnavailable
from calls_mcp.guard.policy.explanation import summary
from calls_mcp.guard.policy.rules import Policy, load_policy
from calls_mcp.observability.redaction import one_line
from calls_mcp.service.approvals_webhook import probe
from calls_mcp.settings import Settings
from calls_mcp.storage.database import NEWER, database_path, is_unusable
from calls_mcp.storage.interface import error_text
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import Durability, StorageOptions

_STATE = "export CALLS_MCP_STATE_URL=…"
_AUDIT = "export CALLS_MCP_AUDIT_DATABASE=FILE"
_PATIENCE = 2.0  # seconds to wait for a file that another program has locked
_WEBHOOK = "approvals webhook"
_WEBHOOK_REMEDY = "check the URL and the network: export CALLS_MCP_APPROVALS_WEBHOOK=URL"
_SUSPICIOUS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.GONE,
)
"""Statuses that get a note. Others may only mean that the webhook does not accept HEAD."""


def check_policy(settings: Settings) -> list[Finding]:
    """Check the policy in use, and the settings that change it."""
    file = settings.guard.policy
    try:
        policy = load_policy(file)
    except ConfigurationError as wrong:
        remedy = "correct the file, then run: calls-mcp policy check"
        return [Finding("policy", "fatal", str(wrong), remedy)]
    policy = policy.under(settings.guard.confirm)
    name = str(file) if file else "the default policy"
    details = f"{name}; for details: calls-mcp policy check"
    shown = Finding("policy", "ok", details, details=summary(policy))
    return [shown, *_overrides(settings), *_unreachable_operator(policy, settings)]


async def check_webhook(settings: Settings) -> list[Finding]:
    """Send a HEAD request to the webhook, if there is one. It notifies nobody."""
    webhook = settings.approvals.webhook
    if webhook is None:
        return []
    url = webhook.get_secret_value()
    host = urlsplit(url).hostname  # the rest may be secret
    status = await probe(url)
    if isinstance(status, str):
        message = f"{host} can't be notified of approval requests: {status}"
        return [Finding(_WEBHOOK, "problem", message, _WEBHOOK_REMEDY)]
    if status > HTTPStatus.NOT_IMPLEMENTED or status == HTTPStatus.INTERNAL_SERVER_ERROR:
        message = f"{host} answered {status}"
        return [Finding(_WEBHOOK, "problem", message, "try again later: calls-mcp doctor")]
    is_redirect = HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST
    if is_redirect or status in _SUSPICIOUS:
        message = f"{host} answered {status} to a HEAD request, so notifications may fail"
        return [Finding(_WEBHOOK, "note", message, _WEBHOOK_REMEDY)]
    return [Finding(_WEBHOOK, "ok", f"{host} can be reached")]


def _overrides(settings: Settings) -> Iterator[Finding]:
    if settings.guard.read_only:
        message = "read-only: the server makes no changes and places no calls"
        yield Finding("policy", "note", message, "unset CALLS_MCP_READ_ONLY")
    elif settings.guard.confirm == "none":
        message = "changes need no confirmation, except where the policy requires a person"
        yield Finding("policy", "note", message, "unset CALLS_MCP_CONFIRM")


def _unreachable_operator(policy: Policy, settings: Settings) -> Iterator[Finding]:
    is_operators = "operator" in astuple(policy.confirm)
    if is_operators and settings.storage.is_memory:
        message = "changes that need the operator are refused, because the state is in memory"
        yield Finding("policy", "problem", message, "unset CALLS_MCP_STATE_URL")


async def check_state_and_audit(settings: Settings, *, sandbox: bool) -> list[Finding]:
    """Check that the state store and the audit log can be written to.

    If both are one file that can't be used, there is one finding.
    """
    store = await _check_store(settings, sandbox=sandbox)
    path = database_path(settings.storage.location, sandbox=sandbox)
    if store.level != "ok" and path == audit_path(settings, sandbox=sandbox):
        return [store]
    return [store, _check_audit(settings, sandbox=sandbox)]


async def _check_store(settings: Settings, *, sandbox: bool) -> Finding:
    url = settings.storage.location
    if settings.storage.is_memory:
        message = "in memory: confirmations are lost when the server stops"
        return Finding("state store", "ok", message)
    path = database_path(url, sandbox=sandbox)
    where = str(path) if path else f"Redis at {_host(url or '')}"
    try:
        async with open_storage(url, StorageOptions(timeout=_PATIENCE), sandbox=sandbox) as storage:
            await storage.ping()
            weakness = None if path else _weakness(where, await storage.durability())
    except ConfigurationError as wrong:
        remedy = _file_remedy(path, wrong.__cause__, _STATE) if path else _STATE
        return Finding("state store", "fatal", str(wrong), remedy)
    except StoreUnavailable as unavailable:
        cause = unavailable.__cause__ or unavailable
        reason, remedy = (
            (error_text(cause), _file_remedy(path, cause, _STATE))
            if path
            else _redis_failure(cause)
        )
        message = f"{where} can't be used, so changes are refused: {one_line(reason)}"
        return Finding("state store", "problem", message, remedy)
    if weakness:
        return weakness
    return Finding("state store", "ok", _usable(path) if path else f"{where} is writable")


def _usable(path: Path) -> str:
    return f"{path} is writable" if path.exists() else f"{path} will be created when needed"


def _host(url: str) -> str:
    """Return the host and the port in a URL of Redis."""
    return mask_url(url).partition("://")[2].rpartition("@")[2].partition("/")[0]


def _file_remedy(path: Path, cause: BaseException | None, other: str) -> str:
    """Return what to do about a file that can't be used; `other` selects another one."""
    if str(cause) == NEWER:
        return f"upgrade calls-mcp, or use another file: {other}"
    if isinstance(cause, sqlite3.Error) and is_unusable(cause):
        return f"use another file: {other}"
    if isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause):
        return f"stop the program that has locked it, or use another file: {other}"
    make = "" if path.parent.exists() else "create its directory, "
    return f"{make}let this user write to the file and its directory, or use another: {other}"


def _weakness(where: str, durability: Durability | None) -> Finding | None:
    """Return a finding if Redis may lose used confirmations or counts of calls."""
    if durability is None:
        message = f"{where} does not allow INFO, so the server can't detect that Redis was restored"
        return Finding("state store", "problem", message, "redis-cli ACL SETUSER USER +info")
    settings = {
        "appendonly yes": durability.is_logged,
        "maxmemory-policy noeviction": durability.eviction in ("", "noeviction"),
    }
    if missing := [setting for setting, is_set in settings.items() if not is_set]:
        message = f"{where} may lose used confirmations and call counts: set {', '.join(missing)}"
        remedy = f"redis-cli CONFIG SET {' '.join(missing)}, and set this in redis.conf"
        return Finding("state store", "problem", message, remedy)
    return None


def _redis_failure(cause: BaseException) -> tuple[str, str]:
    """Return why Redis can't be used, and what to do about it."""
    from redis import exceptions  # noqa: PLC0415

    if isinstance(cause, exceptions.AuthenticationError):
        remedy = "correct the user and the password: export CALLS_MCP_STATE_URL=redis://USER:…@HOST"
        return "it rejects the user or the password", remedy
    if isinstance(cause, exceptions.ResponseError):
        return str(cause), f"correct this in Redis, or use another: {_STATE}"
    remedy = f"check that Redis runs there and can be reached, or use another: {_STATE}"
    causes = [cause, cause.__cause__, cause.__context__]
    if any(isinstance(each, socket.gaierror) for each in causes):
        return "host name not found", remedy
    if any(isinstance(each, ConnectionRefusedError) for each in causes):
        return "connection refused", remedy
    is_late = any(isinstance(each, exceptions.TimeoutError | TimeoutError) for each in causes)
    return "timed out" if is_late else "the connection failed", remedy


def _check_audit(settings: Settings, *, sandbox: bool) -> Finding:
    path = audit_path(settings, sandbox=sandbox)
    if path is None:
        message = "written to stderr: collect it there, or it is lost"
        return Finding("audit log", "note", message, _AUDIT)
    if found := obstacle(path, _PATIENCE):
        message = f"{path} can't be used, so changes are refused: {error_text(found)}"
        return Finding("audit log", "problem", message, _file_remedy(path, found, _AUDIT))
    return Finding("audit log", "ok", _usable(path))
