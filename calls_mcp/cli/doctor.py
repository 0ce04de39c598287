"""`calls-mcp doctor`: check the setup and suggest fixes."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import anyio

from calls_mcp.cli.doctor_checks.finding import Finding, Level
from calls_mcp.cli.doctor_checks.guard import check_policy, check_state_and_audit, check_webhook
from calls_mcp.cli.doctor_checks.http_server import check_http
from calls_mcp.cli.doctor_checks.twilio_api import check_api
from calls_mcp.cli.doctor_checks.variables import (
    PLACEHOLDERS,
    check_settings,
    check_telemetry,
    has_env_file,
    mask_secrets,
    placeholders,
    secrets_in,
)
from calls_mcp.cli.options import add_json, add_sandbox
from calls_mcp.cli.terminal import Color, painted, say, show_json
from calls_mcp.errors import MissingCredentials
from calls_mcp.observability.logs import silenced
from calls_mcp.service.runtime import open_access
from calls_mcp.settings import Settings
from calls_mcp.tools.humanize import counted

_EPILOG = """\
example:
  calls-mcp doctor --sandbox

exit status:
  0  no problems
  1  something is wrong, but the server starts
  2  the server can't start

It reads from the API once per account, fetches the keys of the OAuth issuer,
and sends a HEAD request to the webhook for approval requests, if there is one.
It changes nothing and notifies nobody.
"""
_OK, _PROBLEMS, _FATAL = 0, 1, 2  # exit statuses
_COLORS: dict[Level, Color] = {"ok": "green", "note": "yellow", "problem": "red", "fatal": "red"}
_LEVELS: Sequence[Level] = (*_COLORS,)  # the worst last
_WIDTH = max(map(len, _COLORS))
_CREDENTIALS = (
    *("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_API_KEY", "TWILIO_API_SECRET"),
    "CALLS_MCP_API_BASE_URL",
)
_VARIABLES: Mapping[str, Sequence[str]] = {
    "policy": ("CALLS_MCP_POLICY",),
    "state store": ("CALLS_MCP_STATE_URL",),
    "audit log": ("CALLS_MCP_AUDIT_DATABASE",),
    "approvals webhook": ("CALLS_MCP_APPROVALS_WEBHOOK",),
    "principals": ("CALLS_MCP_PRINCIPALS",),
    "issuer": ("CALLS_MCP_OAUTH_ISSUER",),
    "api": ("CALLS_MCP_API_BASE_URL", "TWILIO_REGION", "TWILIO_EDGE"),
    "credentials": _CREDENTIALS,
}
"""The settings that each check examines."""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_sandbox(parser)
    add_json(parser, "the findings")
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Check the setup and show the findings. Return the exit status."""
    unreplaced = placeholders(sandbox=options.sandbox)
    settings, findings = check_settings(unreplaced, sandbox=options.sandbox)
    secrets: Sequence[str] = ()
    if settings is not None:
        secrets = secrets_in(settings)
        with silenced():
            findings += anyio.run(_check, settings, options.sandbox)
    findings = _without_consequences(findings, unreplaced)
    env_file = getattr(options, "env_file", None)
    if env_file:
        findings = [_or_in(env_file, finding) for finding in findings]
    elif has_env_file():
        findings = _with_env_file(findings)
    findings = [_masked(finding, secrets) for finding in findings]
    status = _status(findings)
    if options.json:
        show_json({"status": status, "findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings, status)
    return status


async def _check(settings: Settings, sandbox: bool) -> list[Finding]:  # noqa: FBT001
    findings = check_policy(settings)
    findings += await check_state_and_audit(settings, sandbox=sandbox)
    findings += check_telemetry(settings)
    findings += await check_webhook(settings)
    try:
        async with open_access(settings, sandbox=sandbox) as access:
            found = await check_api(access)
            is_reached = all(f.level == "ok" for f in found if f.check == "api")
            findings += found
            findings += await check_http(settings, access if is_reached and not sandbox else None)
    except MissingCredentials as error:
        remedy = (
            "set these variables, or try the sandbox, which needs none: calls-mcp doctor --sandbox"
        )
        findings.append(Finding("credentials", "fatal", f"missing: {error.missing}", remedy))
        findings += await check_http(settings, None)
    return findings


def _without_consequences(findings: list[Finding], unreplaced: Sequence[str]) -> list[Finding]:
    """Return the findings without those that a placeholder causes, because it has its own finding.

    That finding gets the worst of their levels.
    """
    caused = [
        finding
        for finding in findings
        if finding.level != "ok" and {*_VARIABLES.get(finding.check, ())}.intersection(unreplaced)
    ]
    kept = [finding for finding in findings if finding not in caused]
    levels = [found.level for found in (*caused, *kept) if found in caused or _is_cause(found)]
    worst = max(levels, key=_LEVELS.index, default="ok")
    return [replace(found, level=worst) if _is_cause(found) else found for found in kept]


def _is_cause(finding: Finding) -> bool:
    return finding.check == PLACEHOLDERS


def _with_env_file(findings: list[Finding]) -> list[Finding]:
    """Suggest the `.env` file where credentials are missing, or else note that it is not used."""
    remedy = "use the .env file of this directory: calls-mcp doctor --env-file .env"
    missing = next((f for f in findings if f.check == "credentials" and f.level == "fatal"), None)
    if missing is None:
        message = "the .env file of this directory is not used"
        return [*findings, Finding("settings", "note", message, remedy)]
    return [replace(found, remedy=remedy) if found is missing else found for found in findings]


def _or_in(env_file: str, finding: Finding) -> Finding:
    """Say that a variable to set or unset may be in `env_file` instead."""
    if not ("export " in finding.remedy or "unset " in finding.remedy):
        return finding
    return replace(finding, remedy=f"{finding.remedy} (or change {env_file})")


def _masked(finding: Finding, secrets: Sequence[str]) -> Finding:
    """Return a finding without secrets. Remedies have none: they repeat no value of a setting."""
    return replace(
        finding,
        message=mask_secrets(finding.message, secrets),
        details=tuple(mask_secrets(line, secrets) for line in finding.details),
    )


def _status(findings: Sequence[Finding]) -> int:
    levels = {finding.level for finding in findings}
    if "fatal" in levels:
        return _FATAL
    return _PROBLEMS if "problem" in levels else _OK


def _show(findings: Sequence[Finding], status: int) -> None:
    for finding in findings:
        level = painted(f"{finding.level:<{_WIDTH}}", _COLORS[finding.level])
        indent = " " * (_WIDTH + 2)
        message = finding.message.replace("\n", f"\n{indent}  ")
        say(f"{level}  {painted(finding.check, 'bold')}: {message}")
        for line in finding.details:
            say(f"{indent}  {line}")
        if finding.remedy:
            say(f"{indent}→ {finding.remedy}")
    wrong = sum(finding.level in ("problem", "fatal") for finding in findings)
    count = counted(wrong, "problem")
    verdict = {
        _OK: "No problems found.",
        _PROBLEMS: f"{count}. The server starts anyway.",
        _FATAL: f"{count}. The server can't start.",
    }
    say(f"\n{verdict[status]}")
