"""Check the API: can it be reached, are the credentials accepted, is our clock in sync."""

import os
import re
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from calls_mcp.cli.doctor_checks import Finding
from calls_mcp.errors import ConfigurationError, InvocationError
from calls_mcp.settings import Access
from calls_mcp.tools.catalog import load_operations
from calls_mcp.tools.validation import validate
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Request, encode
from calls_mcp.twilio.responses import Response, error_from
from calls_mcp.twilio.transport import ConnectionFailure, explain

_TIMEOUT = 10.0  # seconds
_CLOCK_TOLERANCE = 3  # seconds; see `recovery`
_MS = 1000
_VARIABLE = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")
_CONSOLE = "as the Twilio console has it under Account, API keys & tokens"


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A response, and when it was requested and received, in epoch seconds."""

    response: Response
    sent: float
    received: float


async def check_api(access: Access, whose: str = "") -> list[Finding]:
    """Read a list of one call, once, and return what that shows; `whose` names a principal."""
    credentials = f"credentials of {whose}" if whose else "credentials"
    access = replace(
        access, timeout=min(access.timeout, _TIMEOUT), deadline=min(access.deadline, _TIMEOUT)
    )
    arguments = validate(load_operations()["list_calls"], {"page_size": 1})
    request = encode(arguments, access.account_sid)
    try:
        twilio = TwilioClient(access)
    except ConfigurationError as wrong:
        remedy = f"unset {' '.join(_variables_in(str(wrong)))}"
        return [Finding("api", "fatal", f"{access.base_url}: {wrong}", remedy)]
    try:
        sent = time.time()
        response = await twilio.probe(request)
        exchange = _Exchange(response, sent, time.time())
    except InvocationError as failure:
        message = f"{access.base_url}: {failure.message}"
        cause = explain(failure, access.base_url)
        return [Finding("api", "problem", message, _connection_remedy(access, cause))]
    finally:
        await twilio.aclose()
    findings = [
        _reachability(access, exchange),
        _acceptance(credentials, access, request, response),
    ]
    if access.app is None:  # an emulator's clock is ours
        findings.append(_clock(exchange))
    return findings


def _variables_in(message: str) -> list[str]:
    """Return the variables that a message names; if some of them are set, only those."""
    names = _VARIABLE.findall(message)
    spelt = [spelling for name in names for spelling in (name, name.lower())]
    return [name for name in spelt if os.environ.get(name)] or names


def _reachability(access: Access, exchange: _Exchange) -> Finding:
    took = (exchange.received - exchange.sent) * _MS
    status = exchange.response.status
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or _is_redirection(status):
        message = f"{access.base_url} answered {status}"
        elsewhere = "unset CALLS_MCP_API_BASE_URL, or export it as where the API itself is"
        later = "try again in a while: calls-mcp doctor"
        return Finding("api", "problem", message, elsewhere if _is_redirection(status) else later)
    return Finding("api", "ok", f"{access.base_url} answered within {took:.0f} ms")


def _acceptance(name: str, access: Access, request: Request, response: Response) -> Finding:
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
    return Finding(
        name, "problem", f"{who}: {error.message}", _credentials_remedy(access, response.status)
    )


def _is_redirection(status: int) -> bool:
    return HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST


def _credentials_remedy(access: Access, status: int) -> str:
    if status == HTTPStatus.NOT_FOUND:
        return f"export TWILIO_ACCOUNT_SID=AC…, {_CONSOLE}"
    has_key = access.username.startswith("SK")
    names = "TWILIO_API_KEY=SK… TWILIO_API_SECRET=…" if has_key else "TWILIO_AUTH_TOKEN=…"
    region = " for the region of TWILIO_REGION" if _is_regional(access) else ""
    return f"export {names}, {_CONSOLE}{region}"


def _connection_remedy(access: Access, failure: ConnectionFailure | None) -> str:
    host = urlsplit(access.base_url).hostname
    cause = failure.cause if failure else "other"
    if cause == "certificate":
        return "export SSL_CERT_FILE=FILE, with the certificate (PEM) of who issued the server's"
    if cause == "proxy":
        proxy = _variables_in("HTTPS_PROXY ALL_PROXY")[0]
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


def _clock(exchange: _Exchange) -> Finding:
    """Compare our clock with the API's, whose Date has whole seconds."""
    try:
        theirs = parsedate_to_datetime(exchange.response.date).timestamp()
    except (ValueError, TypeError, OverflowError):
        message = "not compared: the API's answer had no date"
        return Finding("clock", "note", message, "timedatectl tells whether it is set by others")
    ahead = max(0.0, exchange.sent - (theirs + 1)) - max(0.0, theirs - exchange.received)
    if abs(ahead) <= _CLOCK_TOLERANCE:
        return Finding("clock", "ok", "as the API's")
    which = "ahead of" if ahead > 0 else "behind"
    message = (
        f"{abs(ahead):.0f} s {which} the API's: what became of a call whose answer was lost "
        "may not be found"
    )
    return Finding("clock", "problem", message, "sudo timedatectl set-ntp true")
