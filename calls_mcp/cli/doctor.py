"""`calls-mcp doctor`: check the setup, and suggest how to correct it."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace

import anyio

from calls_mcp.cli.doctor_checks import Finding, Level
from calls_mcp.cli.doctor_checks.environment import check_settings, mask_secrets, secrets_in
from calls_mcp.cli.doctor_checks.files import (
    check_audit,
    check_policy,
    check_store,
    check_telemetry,
)
from calls_mcp.cli.doctor_checks.http_server import check_http
from calls_mcp.cli.doctor_checks.twilio_api import check_api
from calls_mcp.cli.options import add_json, add_sandbox
from calls_mcp.cli.terminal import Colour, painted, say, show_json
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability.logs import silenced
from calls_mcp.service.sandbox import open_access
from calls_mcp.settings import Settings

_EPILOG = """\
exit status:
  0  all is well
  1  something is wrong, though the server starts
  2  the server can't start like this

It reads a list of one call from the API, and changes nothing anywhere.
"""
_OK, _PROBLEMS, _FATAL = 0, 1, 2  # exit statuses
_COLOURS: dict[Level, Colour] = {"ok": "green", "note": "yellow", "problem": "red", "fatal": "red"}
_WIDTH = max(map(len, _COLOURS))


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_sandbox(parser)
    add_json(parser, "the findings")
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Check the setup and show the findings. Return the exit status."""
    settings, findings = check_settings(sandbox=options.sandbox)
    secrets: Sequence[str] = ()
    if settings is not None:
        secrets = secrets_in(settings)
        with silenced():
            findings += anyio.run(_check, settings, options.sandbox)
    findings = [_masked(finding, secrets) for finding in findings]
    status = _status(findings)
    if options.json:
        show_json({"status": status, "findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings, status)
    return status


async def _check(settings: Settings, sandbox: bool) -> list[Finding]:  # noqa: FBT001
    findings = check_policy(settings)
    findings.append(await check_store(settings, sandbox=sandbox))
    findings += check_audit(settings, sandbox=sandbox)
    findings += check_telemetry(settings)
    try:
        async with open_access(settings, sandbox=sandbox) as access:
            findings += await check_api(access)
            findings += await check_http(settings, None if sandbox else access)
    except ConfigurationError as wrong:
        remedy = "export those; where there are none yet: calls-mcp doctor --sandbox"
        findings.append(Finding("credentials", "fatal", str(wrong), remedy))
        findings += await check_http(settings, None)
    return findings


def _masked(finding: Finding, secrets: Sequence[str]) -> Finding:
    """Return a finding without any secret.

    A remedy repeats no values, and a secret like `emulator` may be one of its words.
    """
    return replace(
        finding,
        message=mask_secrets(finding.message, secrets),
        remedy=mask_secrets(finding.remedy, ()),
        details=tuple(mask_secrets(line, secrets) for line in finding.details),
    )


def _status(findings: Sequence[Finding]) -> int:
    levels = {finding.level for finding in findings}
    if "fatal" in levels:
        return _FATAL
    return _PROBLEMS if "problem" in levels else _OK


def _show(findings: Sequence[Finding], status: int) -> None:
    for finding in findings:
        level = painted(f"{finding.level:<{_WIDTH}}", _COLOURS[finding.level])
        say(f"{level}  {painted(finding.check, 'bold')}: {finding.message}")
        indent = " " * (_WIDTH + 2)
        for line in finding.details:
            say(f"{indent}  {line}")
        if finding.remedy:
            say(f"{indent}→ {finding.remedy}")
    wrong = sum(finding.level in ("problem", "fatal") for finding in findings)
    verdict = {
        _OK: "All is well.",
        _PROBLEMS: f"{_count(wrong)}. The server starts all the same.",
        _FATAL: f"{_count(wrong)}. The server can't start like this.",
    }
    say(f"\n{verdict[status]}")


def _count(wrong: int) -> str:
    return f"{wrong} thing is wrong" if wrong == 1 else f"{wrong} things are wrong"
