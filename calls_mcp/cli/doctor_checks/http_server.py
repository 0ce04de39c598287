"""Check what only the HTTP server uses: host names, tokens and the OAuth issuer."""

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from calls_mcp.cli.doctor_checks.finding import Finding
from calls_mcp.cli.doctor_checks.twilio_api import check_api
from calls_mcp.errors import ConfigurationError
from calls_mcp.http.oauth import IssuerUnavailable, KeySet
from calls_mcp.http.principals import Principals, load_principals
from calls_mcp.settings import Access, Settings
from calls_mcp.tools.humanize import counted

_SOON = timedelta(days=7)


async def check_http(settings: Settings, shared: Access | None) -> list[Finding]:
    """Check the settings of the HTTP server, if any are set.

    `shared` is the access to the API; None skips the accounts of principals.
    """
    auth, hosts = settings.auth.mode, settings.http.allowed_hosts
    if auth == "none" and not hosts:
        return []
    findings = [_hosts(hosts)]
    if settings.auth.principals:
        findings += [f async for f in _principals(settings.auth.principals, shared, auth)]
    if settings.auth.oauth_issuer:
        findings.append(await _issuer(settings.auth.oauth_issuer))
    return findings


def _hosts(hosts: str) -> Finding:
    if hosts:
        return Finding("http", "ok", f"allowed hosts: {hosts}")
    message = "only this machine can connect, because no other host name is allowed"
    return Finding("http", "note", message, "export CALLS_MCP_ALLOWED_HOSTS=HOST")


async def _principals(file: Path, shared: Access | None, mode: str) -> AsyncIterator[Finding]:
    try:
        principals = load_principals(file)
    except ConfigurationError as wrong:
        yield Finding(
            "principals", "fatal", str(wrong), "correct the file, then run: calls-mcp token list"
        )
        return
    for finding in _tokens(file, principals, mode):
        yield finding
    for name, overrides in principals.overrides.items():
        if shared and overrides.account_sid:
            remedy = f"correct [principals.{name}] in the file of CALLS_MCP_PRINCIPALS"
            for finding in await check_api(overrides.access(shared), name):
                is_theirs = finding.check.startswith("credentials")
                if is_theirs and finding.level == "problem":
                    yield replace(finding, remedy=remedy)
                elif is_theirs or finding.level == "problem":
                    yield finding


def _tokens(file: Path, principals: Principals, mode: str) -> Iterator[Finding]:
    now = datetime.now(UTC)
    if not principals.tokens:
        if mode == "tokens":
            message = f"{file} has no token, so no client can sign in"
            yield Finding("principals", "problem", message, _new_token("NAME"))
        else:
            yield Finding("principals", "ok", f"{file} is valid")
        return
    good = [token for token in principals.tokens if token.expires > now]
    if not good:
        message = f"{file}: every token has expired, so no client can sign in"
        yield Finding("principals", "problem", message, _new_token(principals.tokens[0].principal))
        return
    yield Finding("principals", "ok", f"{file}: {counted(len(good), 'valid token')}")
    for token in principals.tokens:
        if token.expires <= now + _SOON:
            when = "expired on" if token.expires <= now else "expires on"
            message = f"{token.principal}'s token {token.sha256[:12]}… {when} {token.expires:%F}"
            yield Finding("principals", "note", message, _new_token(token.principal))


def _new_token(principal: str) -> str:
    return f"calls-mcp token new {principal} --scope SCOPE"


async def _issuer(url: str) -> Finding:
    try:
        await KeySet(url, time.monotonic).key(None)
    except IssuerUnavailable:
        message = f"can't get the keys of {url}, so no client can sign in"
        return Finding("issuer", "problem", message, "export CALLS_MCP_OAUTH_ISSUER=URL")
    return Finding("issuer", "ok", f"{url} provides its keys")
