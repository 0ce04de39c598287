"""`calls-mcp doctor`: what was looked at, what was found, and what mends it."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace

import anyio

from calls_mcp.cli import doctor_checks
from calls_mcp.cli.doctor_checks import Finding, Level
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
_WELL, _WRONG, _BROKEN = 0, 1, 2  # exit statuses
_COLOURS: dict[Level, Colour] = {"ok": "green", "note": "yellow", "problem": "red", "fatal": "red"}
_WIDTH = max(map(len, _COLOURS))


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_sandbox(parser)
    add_json(parser, "the findings")
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Examine the set-up and tell. Returns the exit status."""
    settings, findings = doctor_checks.examine_settings(sandbox=options.sandbox)
    if settings is not None:
        with silenced():
            findings += anyio.run(_examine, settings, options.sandbox)
    secrets = doctor_checks.secrets_in(settings) if settings else ()
    findings = [_discreet(finding, secrets) for finding in findings]
    status = _status(findings)
    if options.json:
        show_json({"status": status, "findings": [asdict(finding) for finding in findings]})
    else:
        _tell(findings, status)
    return status


async def _examine(settings: Settings, sandbox: bool) -> list[Finding]:  # noqa: FBT001
    _, findings = doctor_checks.examine_policy(settings)
    findings.append(await doctor_checks.examine_store(settings, sandbox=sandbox))
    findings += doctor_checks.examine_audit(settings, sandbox=sandbox)
    findings += doctor_checks.examine_telemetry(settings)
    try:
        async with open_access(settings, sandbox=sandbox) as access:
            findings += await doctor_checks.examine_api(access)
            findings += await doctor_checks.examine_http(settings, None if sandbox else access)
    except ConfigurationError as wrong:
        remedy = "export those; where there are none yet: calls-mcp doctor --sandbox"
        findings.append(Finding("credentials", "fatal", str(wrong), remedy))
        findings += await doctor_checks.examine_http(settings, None)
    return findings


def _discreet(finding: Finding, secrets: Sequence[str]) -> Finding:
    """A finding without any secret, whatever it repeats.

    A remedy is in our own words, in which a token like `emulator` is a word.
    """
    return replace(
        finding,
        message=doctor_checks.discreet(finding.message, secrets),
        remedy=doctor_checks.discreet(finding.remedy, ()),
        details=tuple(doctor_checks.discreet(line, secrets) for line in finding.details),
    )


def _status(findings: Sequence[Finding]) -> int:
    levels = {finding.level for finding in findings}
    if "fatal" in levels:
        return _BROKEN
    return _WRONG if "problem" in levels else _WELL


def _tell(findings: Sequence[Finding], status: int) -> None:
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
        _WELL: "All is well.",
        _WRONG: f"{_count(wrong)}. The server starts all the same.",
        _BROKEN: f"{_count(wrong)}. The server can't start like this.",
    }
    say(f"\n{verdict[status]}")


def _count(wrong: int) -> str:
    return f"{wrong} thing is wrong" if wrong == 1 else f"{wrong} things are wrong"
