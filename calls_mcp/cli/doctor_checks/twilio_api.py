"""Check that the API can be reached, that it accepts the credentials, and that clocks agree."""

import os
import re
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from calls_mcp.cli.doctor_checks.finding import Finding
from calls_mcp.cli.doctor_checks.variables import mask_url
from calls_mcp.errors import ConfigurationError, InvocationError
from calls_mcp.settings import Access
from calls_mcp.tools.catalog import load_operations
from calls_mcp.tools.validation import validate
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Request, encode
from calls_mcp.twilio.responses import Response, error_from
from calls_mcp.twilio.transport import ConnectionFailure, connection_failure

_TIMEOUT = 10.0  # seconds
_CLOCK_TOLERANCE = 3  # seconds; see `recovery`
_MS = 1000
_VARIABLE = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")
_CONSOLE = "from the Twilio console, under Account > API keys & tokens"


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A response, and the epoch seconds at which it was requested and received."""

    response: Response
    sent: float
    received: float


async def check_api(access: Access, whose: str = "") -> list[Finding]:
    """Read a list of one call, once, and return the findings. `whose` names a principal."""
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
        cause = connection_failure(failure, access.base_url)
        reason = cause.words if cause else failure.message.rstrip(".")
        if cause and cause.cause == "proxy":
            reason += f" (proxy: {_proxy()})"
        message = f"can't reach {access.base_url}: {reason}"
        return [Finding("api", "problem", message, _connection_remedy(access, cause))]
    finally:
        await twilio.aclose()
    if failed := _outage(access, response.status):
        return [failed]
    took = (exchange.received - exchange.sent) * _MS
    api = "the emulator" if access.app else access.base_url
    findings = [
        Finding("api", "ok", f"{api} answered within {took:.0f} ms"),
        _acceptance(credentials, access, request, response),
    ]
    if access.app is None:  # the sandbox uses this machine's clock
        findings.append(_clock(exchange))
    return findings


def _variables_in(message: str) -> list[str]:
    """Return the variables that a message names, or only those that are set if any are."""
    names = _VARIABLE.findall(message)
    spelt = [spelling for name in names for spelling in (name, name.lower())]
    return [name for name in spelt if os.environ.get(name)] or names


def _outage(access: Access, status: int) -> Finding | None:
    """Return the finding about a redirect or a server error; None for any other status."""
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        message = f"{access.base_url} redirects elsewhere (status {status}); the Calls API does not"
        return Finding("api", "problem", message, "correct or unset CALLS_MCP_API_BASE_URL")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        message = f"{access.base_url} answered {status}"
        return Finding("api", "problem", message, "try again later: calls-mcp doctor")
    return None


def _acceptance(name: str, access: Access, request: Request, response: Response) -> Finding:
    has_key = access.username != access.account_sid
    who = f"{access.username} on {access.account_sid}" if has_key else access.account_sid
    if response.is_success:
        if "calls" in response.payload:
            return Finding(name, "ok", f"{who}: accepted")
        message = f"{access.base_url} is not the Calls API"
        return Finding(name, "problem", message, "unset CALLS_MCP_API_BASE_URL")
    error = error_from(request, response, access.secrets)
    if error.retryable:
        message = f"{who}: not checked, because the API is busy"
        return Finding(name, "note", message, "try again later: calls-mcp doctor")
    message = f"{who}: {error.message.partition(': ')[2]}"
    return Finding(name, "problem", message, _credentials_remedy(access, response.status))


def _credentials_remedy(access: Access, status: int) -> str:
    if access.is_local:
        return "export TWILIO_ACCOUNT_SID=… TWILIO_AUTH_TOKEN=…, as the emulator prints them"
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
        return "export SSL_CERT_FILE=FILE, a PEM file with the certificate of the server's issuer"
    if cause == "proxy":
        proxy = _variables_in("HTTPS_PROXY ALL_PROXY")[0]
        return f"check {proxy}: export {proxy}=http://HOST:PORT, or unset {proxy}"
    if access.is_local:
        start = f"start a server there, such as: calls-mcp emulator --port {_port(access)}"
        other = "check the server there, or: unset CALLS_MCP_API_BASE_URL"
        return start if cause == "refused" else other
    if cause == "name" and os.environ.get("CALLS_MCP_API_BASE_URL"):
        return "check the host name: export CALLS_MCP_API_BASE_URL=URL, or unset it"
    if _is_regional(access):
        return "check TWILIO_REGION and TWILIO_EDGE, or: unset TWILIO_REGION TWILIO_EDGE"
    proxy = "export HTTPS_PROXY=http://HOST:PORT"
    return f"check the network: curl -v https://{host}; if you need a proxy: {proxy}"


def _proxy() -> str:
    """Return the host of the proxy in use."""
    url = next(filter(None, map(os.environ.get, _variables_in("HTTPS_PROXY ALL_PROXY"))), "")
    return mask_url(url).rpartition("://")[2].rpartition("@")[2]


def _is_regional(access: Access) -> bool:
    host = urlsplit(access.base_url).hostname or ""
    return host.endswith(".twilio.com") and host != "api.twilio.com"


def _port(access: Access) -> int:
    return urlsplit(access.base_url).port or 80


def _clock(exchange: _Exchange) -> Finding:
    """Compare this machine's clock with the API's, whose Date header has whole seconds."""
    try:
        theirs = parsedate_to_datetime(exchange.response.date).timestamp()
    except (ValueError, TypeError, OverflowError):
        message = "not checked, because the API's response has no date"
        return Finding("clock", "note", message, "see whether it is synchronized: timedatectl")
    ahead = max(0.0, exchange.sent - (theirs + 1)) - max(0.0, theirs - exchange.received)
    if abs(ahead) <= _CLOCK_TOLERANCE:
        return Finding("clock", "ok", "in sync with the API")
    which = "ahead of" if ahead > 0 else "behind"
    message = (
        f"{abs(ahead):.0f} s {which} the API, so the server may not find a call whose response "
        "was lost"
    )
    return Finding("clock", "problem", message, "sudo timedatectl set-ntp true")
