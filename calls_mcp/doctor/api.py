"""The API: whether it can be reached, takes the credentials, and has our time."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from calls_mcp.arguments import check
from calls_mcp.catalog import load_operations
from calls_mcp.doctor.findings import Finding
from calls_mcp.errors import ConfigurationError, InvocationError
from calls_mcp.failures import Answer, refused
from calls_mcp.settings import Access
from calls_mcp.twilio import TwilioClient
from calls_mcp.wire import Request, encode

_LONGEST = 10.0  # seconds
_TOLERATED = 3  # seconds by which clocks may differ; see `recovery`
_MS = 1000


@dataclass(frozen=True, slots=True)
class _Told:
    """An answer, when it was asked for and when it came, in epoch seconds."""

    answer: Answer
    asked: float
    came: float


async def examine_api(access: Access, whose: str = "") -> list[Finding]:
    """Read a list of one call, once, and tell what that shows."""
    credentials = f"credentials of {whose}" if whose else "credentials"
    access = replace(
        access, timeout=min(access.timeout, _LONGEST), deadline=min(access.deadline, _LONGEST)
    )
    arguments = check(load_operations()["list_calls"], {"page_size": 1})
    request = encode(arguments, access.account_sid)
    try:
        twilio = TwilioClient(access)
    except ConfigurationError as wrong:
        remedy = "mend what it names, or unset it"
        return [Finding("api", "fatal", f"{access.base_url}: {wrong}", remedy)]
    try:
        asked = time.time()
        answer = await twilio.ask_once(request)
        told = _Told(answer, asked, time.time())
    except InvocationError as failure:
        return [Finding("api", "problem", f"{access.base_url}: {failure.message}", _way(access))]
    finally:
        await twilio.aclose()
    return [_reached(access, told), _accepted(credentials, access, request, answer), *_clock(told)]


def _reached(access: Access, told: _Told) -> Finding:
    took = (told.came - told.asked) * _MS
    status = told.answer.status
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or _is_redirection(status):
        message = f"{access.base_url} answered {status}"
        elsewhere = "set CALLS_MCP_API_BASE_URL to where the API itself is"
        later = "try again in a while: calls-mcp doctor"
        return Finding("api", "problem", message, elsewhere if _is_redirection(status) else later)
    return Finding("api", "ok", f"{access.base_url} answered within {took:.0f} ms")


def _accepted(name: str, access: Access, request: Request, answer: Answer) -> Finding:
    who = f"{access.username} on {access.account_sid}"
    if answer.is_success:
        if "calls" in (answer.json() or {}):
            return Finding(name, "ok", f"{who}: accepted")
        message = f"what answered at {access.base_url} is not the Calls API"
        return Finding(name, "problem", message, "unset CALLS_MCP_API_BASE_URL, or mend it")
    error = refused(request, answer, access.secrets)
    if error.retryable or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Finding(
            name, "note", f"{who}: could not be tried", "calls-mcp doctor, a little later"
        )
    return Finding(name, "problem", f"{who}: {error.message}", _remedy(access, answer.status))


def _is_redirection(status: int) -> bool:
    return HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST


def _remedy(access: Access, status: int) -> str:
    if status == HTTPStatus.NOT_FOUND:
        return "check TWILIO_ACCOUNT_SID"
    has_key = access.username.startswith("SK")
    names = "TWILIO_API_KEY and TWILIO_API_SECRET" if has_key else "TWILIO_AUTH_TOKEN"
    of = " of the region that TWILIO_REGION names" if _is_regional(access) else ""
    return f"set {names} to those{of} in the Twilio console, under Account, API keys & tokens"


def _way(access: Access) -> str:
    host = urlsplit(access.base_url).hostname
    if access.is_local:
        return f"start what should listen there, such as: calls-mcp emulator --port {_port(access)}"
    regional = "TWILIO_REGION and TWILIO_EDGE, and " if _is_regional(access) else ""
    return f"check {regional}the network, DNS and proxy (HTTPS_PROXY) to {host}"


def _is_regional(access: Access) -> bool:
    host = urlsplit(access.base_url).hostname or ""
    return host.endswith(".twilio.com") and host != "api.twilio.com"


def _port(access: Access) -> int:
    return urlsplit(access.base_url).port or 80


def _clock(told: _Told) -> Iterator[Finding]:
    """Whether our clock is the API's; its Date has whole seconds."""
    try:
        theirs = parsedate_to_datetime(told.answer.date).timestamp()
    except (ValueError, TypeError, OverflowError):
        yield Finding("clock", "note", "not compared: the API's answer had no date")
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
