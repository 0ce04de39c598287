"""The API: whether it can be reached, takes the credentials, and has our time."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from calls_mcp.cli.doctor_checks.findings import Finding
from calls_mcp.errors import ConfigurationError, InvocationError
from calls_mcp.settings import Access
from calls_mcp.tools.catalog import load_operations
from calls_mcp.tools.validation import validate
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Request, encode
from calls_mcp.twilio.responses import Response, error_from
from calls_mcp.twilio.transport import ConnectionFailure, explain

_LONGEST = 10.0  # seconds
_TOLERATED = 3  # seconds by which clocks may differ; see `recovery`
_MS = 1000
_VARIABLE = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")
_CONSOLE = "as the Twilio console has it under Account, API keys & tokens"


@dataclass(frozen=True, slots=True)
class _Told:
    """A response, when it was asked for and when it came, in epoch seconds."""

    response: Response
    asked: float
    came: float


async def examine_api(access: Access, whose: str = "") -> list[Finding]:
    """Read a list of one call, once, and tell what that shows."""
    credentials = f"credentials of {whose}" if whose else "credentials"
    access = replace(
        access, timeout=min(access.timeout, _LONGEST), deadline=min(access.deadline, _LONGEST)
    )
    arguments = validate(load_operations()["list_calls"], {"page_size": 1})
    request = encode(arguments, access.account_sid)
    try:
        twilio = TwilioClient(access)
    except ConfigurationError as wrong:
        remedy = f"unset {' '.join(_named(str(wrong)))}"
        return [Finding("api", "fatal", f"{access.base_url}: {wrong}", remedy)]
    try:
        asked = time.time()
        response = await twilio.probe(request)
        told = _Told(response, asked, time.time())
    except InvocationError as failure:
        message = f"{access.base_url}: {failure.message}"
        return [Finding("api", "problem", message, _way(access, explain(failure, access.base_url)))]
    finally:
        await twilio.aclose()
    findings = [_reached(access, told), _accepted(credentials, access, request, response)]
    return findings if access.app else [*findings, *_clock(told)]  # the emulator's clock is ours


def _named(message: str) -> list[str]:
    """The variables that a message names: those of them that are set, if any are."""
    names = _VARIABLE.findall(message)
    spelt = [spelling for name in names for spelling in (name, name.lower())]
    return [name for name in spelt if os.environ.get(name)] or names


def _reached(access: Access, told: _Told) -> Finding:
    took = (told.came - told.asked) * _MS
    status = told.response.status
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or _is_redirection(status):
        message = f"{access.base_url} answered {status}"
        elsewhere = "unset CALLS_MCP_API_BASE_URL, or export it as where the API itself is"
        later = "try again in a while: calls-mcp doctor"
        return Finding("api", "problem", message, elsewhere if _is_redirection(status) else later)
    return Finding("api", "ok", f"{access.base_url} answered within {took:.0f} ms")


def _accepted(name: str, access: Access, request: Request, response: Response) -> Finding:
    who = f"{access.username} on {access.account_sid}"
    if response.is_success:
        if "calls" in response.payload:
            return Finding(name, "ok", f"{who}: accepted")
        message = f"what answered at {access.base_url} is not the Calls API"
        return Finding(name, "problem", message, "unset CALLS_MCP_API_BASE_URL")
    error = error_from(request, response, access.secrets)
    if error.retryable or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Finding(
            name, "note", f"{who}: could not be tried", "calls-mcp doctor, a little later"
        )
    return Finding(name, "problem", f"{who}: {error.message}", _remedy(access, response.status))


def _is_redirection(status: int) -> bool:
    return HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST


def _remedy(access: Access, status: int) -> str:
    if status == HTTPStatus.NOT_FOUND:
        return f"export TWILIO_ACCOUNT_SID=AC…, {_CONSOLE}"
    has_key = access.username.startswith("SK")
    names = "TWILIO_API_KEY=SK… TWILIO_API_SECRET=…" if has_key else "TWILIO_AUTH_TOKEN=…"
    region = " for the region of TWILIO_REGION" if _is_regional(access) else ""
    return f"export {names}, {_CONSOLE}{region}"


def _way(access: Access, failure: ConnectionFailure | None) -> str:
    host = urlsplit(access.base_url).hostname
    cause = failure.cause if failure else "other"
    if cause == "certificate":
        return "export SSL_CERT_FILE=FILE, with the certificate (PEM) of who issued the server's"
    if cause == "proxy":
        proxy = _named("HTTPS_PROXY ALL_PROXY")[0]
        return f"check {proxy}: export {proxy}=http://HOST:PORT, or unset {proxy}"
    if access.is_local and cause == "refused":
        return f"start what should listen there, such as: calls-mcp emulator --port {_port(access)}"
    if access.is_local:
        return "check what listens there, or: unset CALLS_MCP_API_BASE_URL"
    if cause == "name" and os.environ.get("CALLS_MCP_API_BASE_URL"):
        return "check the host name: export CALLS_MCP_API_BASE_URL=URL, or unset it"
    regional = "unset TWILIO_REGION TWILIO_EDGE; or " if _is_regional(access) else ""
    proxy = "export HTTPS_PROXY=http://HOST:PORT"
    return f"{regional}see where it ends: curl -v https://{host}; if a proxy leads out: {proxy}"


def _is_regional(access: Access) -> bool:
    host = urlsplit(access.base_url).hostname or ""
    return host.endswith(".twilio.com") and host != "api.twilio.com"


def _port(access: Access) -> int:
    return urlsplit(access.base_url).port or 80


def _clock(told: _Told) -> Iterator[Finding]:
    """Whether our clock is the API's; its Date has whole seconds."""
    try:
        theirs = parsedate_to_datetime(told.response.date).timestamp()
    except (ValueError, TypeError, OverflowError):
        message = "not compared: the API's answer had no date"
        yield Finding("clock", "note", message, "timedatectl tells whether it is set by others")
        return
    ahead = max(0.0, told.asked - (theirs + 1)) - max(0.0, theirs - told.came)
    if abs(ahead) <= _TOLERATED:
        yield Finding("clock", "ok", "as the API's")
        return
    which = "ahead of" if ahead > 0 else "behind"
    message = (
        f"{abs(ahead):.0f} s {which} the API's: what became of a call whose answer was lost "
        "may not be found"
    )
    yield Finding("clock", "problem", message, "sudo timedatectl set-ntp true")
