"""Responses of the Calls API, and the errors for requests without a usable response."""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from typing import Self, cast
from urllib.parse import urlsplit

import orjson

from calls_mcp.errors import (
    CredentialsRejected,
    InvocationError,
    NotAttempted,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Redirected,
    Rejected,
    Unavailable,
    Unreachable,
)
from calls_mcp.observability.redaction import masked, one_line, quoted
from calls_mcp.tools.call_summary import CallSummary, NotACall, summarize
from calls_mcp.tools.catalog import CONFIG, Json, address_kind
from calls_mcp.tools.humanize import about
from calls_mcp.twilio.requests import Request

_LONGEST_MESSAGE = 300  # characters
_MOST_READ = 8192  # bytes of a text, and characters of a message
_LONGEST_HOST = 100  # characters
_LONGEST_WAIT = 86_400.0  # seconds
_TRY_LATER = "Nothing was changed, so it is safe to try again later."
_FAILS_AGAIN = "The same arguments will fail again."
_FIX_ARGUMENTS = f"Fix the arguments as the API's message says. {_FAILS_AGAIN}"
_NO_SUCH_ACCOUNT = "Check account_sid, or leave it out to use the configured account."
_CHECK_ARGUMENTS = f"Check the arguments. {_FAILS_AGAIN}"

_REJECTIONS: dict[int, tuple[type[Rejected], str]] = {
    HTTPStatus.UNAUTHORIZED: (CredentialsRejected, "The operator must check the credentials."),
    HTTPStatus.FORBIDDEN: (
        CredentialsRejected,
        "The operator must check the account's permissions.",
    ),
    HTTPStatus.NOT_FOUND: (
        NotFound,
        "Check sid and account_sid, or find the call with list_calls.",
    ),
    HTTPStatus.TOO_MANY_REQUESTS: (RateLimited, _TRY_LATER),
}


@dataclass(frozen=True, slots=True)
class Response:
    """A response of the API.

    `payload` is the JSON object in its body, empty unless `has_payload`. `retry_after` is in
    seconds. `date` is its Date header. If it is not a success, `message` is the one in its body,
    and `location` the URL that it redirects to.
    """

    status: int
    payload: Mapping[str, Json]
    has_payload: bool
    request_id: str
    retry_after: float | None
    date: str
    message: str
    location: str

    @classmethod
    def parse(cls, status: int, headers: Mapping[str, str], body: bytes) -> Self:
        """Return a response from its parts; `body` is already decoded."""
        payload = _parse_json(body)
        has_payload = isinstance(payload, dict)
        return cls(
            status,
            cast("Mapping[str, Json]", payload) if has_payload else {},
            has_payload,
            headers.get("Twilio-Request-Id", ""),
            _parse_retry_after(headers.get("Retry-After", "")),
            headers.get("Date", ""),
            "" if _is_success(status) else _message_in(payload, body),
            headers.get("Location", ""),
        )

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return _is_success(self.status)

    @property
    def is_redirection(self) -> bool:
        """Whether the status is a 3xx."""
        return self.status // 100 == 3  # noqa: PLR2004

    @property
    def is_rejection(self) -> bool:
        """Whether the request was certainly not processed: any 4xx except a timeout."""
        return self.status // 100 == 4 and self.status != HTTPStatus.REQUEST_TIMEOUT  # noqa: PLR2004


def _is_success(status: int) -> bool:
    return status // 100 == 2  # noqa: PLR2004


def _parse_json(body: bytes) -> object:
    """Return the JSON in a body; None if it is invalid. orjson is fast but stricter than json."""
    with suppress(ValueError):
        return orjson.loads(body)
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return None


def _parse_retry_after(text: str) -> float | None:
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _message_in(payload: object, body: bytes) -> str:
    """Return the message on one line, or an empty string. `payload` is the JSON in `body`, if any.

    JSON has Twilio's `message`, or the `title` and `detail` of RFC 9457. Other bodies are plain
    text or HTML.
    """
    if isinstance(payload, dict):
        fields = cast("Mapping[str, object]", payload)
        words = _text(fields.get("message"))
        return words or _joined(": ", (_text(fields.get(name)) for name in ("title", "detail")))
    if payload is not None or body == b"null":
        return ""
    text = body[:_MOST_READ].decode(errors="replace").rstrip("\ufffd")
    if "<" in text:
        from calls_mcp.twilio.html_errors import texts_in  # noqa: PLC0415  # rare

        return _joined(" ", map(_text, texts_in(text)))
    return "" if "\ufffd" in text or "\0" in text else _text(text)


def _text(value: object) -> str:
    return one_line(value, _MOST_READ) if isinstance(value, str) else ""


def _joined(separator: str, texts: Iterable[str]) -> str:
    """Return the texts without repetitions, such as the title of a page and its heading."""
    return separator.join(dict.fromkeys(text for text in texts if text))


def require_usable(request: Request, response: Response, secrets: Sequence[str]) -> None:
    """Check that `response` is a readable success.

    Raises:
        InvocationError: It is not. The message contains none of `secrets`.
    """
    if not response.is_success:
        raise error_from(request, response, secrets)
    is_deletion = request.effect == "delete"
    if response.status != HTTPStatus.NO_CONTENT if is_deletion else not response.has_payload:
        reason = f"the API returned {response.status} without a readable body"
        raise no_usable_response(request, reason, response)


def read_call(request: Request, response: Response) -> CallSummary:
    """Return the call in a response.

    Raises:
        InvocationError: The response has no call, or another one than requested.
    """
    try:
        call = summarize(response.payload)
    except NotACall as unreadable:
        raise no_usable_response(request, str(unreadable), response) from unreadable
    account_sid = call.account_sid or request.account_sid
    if request.sid not in ("", call.sid) or account_sid != request.account_sid:
        raise no_usable_response(request, "the API's response is about another call", response)
    return call


def not_sent(reason: str) -> Unreachable:
    """Return the error for a request that never left this machine."""
    hint = f"{_TRY_LATER} If this continues, the operator must check the network and the base URL."
    return Unreachable(f"Nothing was sent: {reason}.", hint)


def not_attempted(reason: str) -> NotAttempted:
    """Return the error for a request that was not attempted."""
    return NotAttempted(f"Nothing was sent: {reason}.", _TRY_LATER)


def no_free_connection(kind: str, limit: int, wait: float) -> NotAttempted:
    """Return the error for a request for which no connection became free."""
    return NotAttempted(
        f"Nothing was sent: all {limit} connections for {kind} were busy for {wait:g} s.",
        _TRY_LATER,
    )


def no_usable_response(
    request: Request, reason: str, response: Response | None = None
) -> InvocationError:
    """Return the error for a request that was sent and got no usable response."""
    status, request_id, retry_after = None, "", None
    if response:
        status, request_id = response.status, response.request_id
        retry_after = response.retry_after
    if request.effect == "read" and response and response.is_redirection:
        return Redirected(_sentence(f"Nothing could be read: {reason}."), status=status)
    if request.effect == "read":
        return Unavailable(
            _sentence(f"Nothing could be read: {reason}."),
            _wait(retry_after) if retry_after else _TRY_LATER,
            status=status,
            request_id=request_id,
            retry_after=retry_after,
        )
    return OutcomeUnknown(
        _sentence(f"It is unknown whether this took effect: the request was sent, but {reason}."),
        f"Do not retry yet. {_how_to_find_out(request)}",
        status=status,
        request_id=request_id,
    )


def error_from(request: Request, response: Response, secrets: Sequence[str]) -> InvocationError:
    """Return the error for an unsuccessful response. Its message contains none of `secrets`."""
    words = masked(response.message, (*secrets, *request.secrets))
    message = f" with the message {quoted(words, _LONGEST_MESSAGE)}" if words else ""
    if response.is_redirection and response.location:
        host = _redirected_to(response.location, (*secrets, *request.secrets))
        reason = f"the API redirected{host} ({response.status}), which is not followed"
        return no_usable_response(request, reason, response)
    if not response.is_rejection:
        returned = f"the API returned {response.status}{message}"
        return no_usable_response(request, returned, response)
    code = response.payload.get("code")
    known = code if isinstance(code, int) and not isinstance(code, bool) else None
    cls, hint = _REJECTIONS.get(
        response.status, (Rejected, _FIX_ARGUMENTS if words else _CHECK_ARGUMENTS)
    )
    hint = _hints().get(str(known), hint)
    if cls is NotFound and not request.sid:
        hint = _NO_SUCH_ACCOUNT
    if cls.retryable and response.retry_after:
        hint = _wait(response.retry_after)
    failure = "Nothing could be read" if request.effect == "read" else "Nothing happened"
    return cls(
        _sentence(f"{failure}: the API returned {response.status}{message}."),
        hint,
        status=response.status,
        code=known,
        request_id=response.request_id,
        retry_after=response.retry_after,
    )


def _redirected_to(location: str, secrets: Sequence[str]) -> str:
    """Return where a redirect leads: only the host, since the rest may contain credentials."""
    with suppress(ValueError):
        host = urlsplit(location).hostname
        return f" to {quoted(masked(one_line(host), secrets), _LONGEST_HOST)}" if host else ""
    return ""


def _sentence(text: str) -> str:
    """Return a sentence without a second full stop after a quotation that ends with one."""
    return text[:-1] if text.endswith('.".') else text


def _wait(seconds: float) -> str:
    return f"Wait {about(min(seconds, _LONGEST_WAIT))}, then try again."


@cache
def _hints() -> Mapping[str, str]:
    return tomllib.loads((CONFIG / "errors.toml").read_text("utf-8"))


def _how_to_find_out(request: Request) -> str:
    fetch = f"fetch_call (sid={request.sid}, account_sid={request.account_sid})"
    if request.effect == "delete":
        return f"Check with {fetch}: not_found means that it was deleted."
    if request.effect == "change":
        return f"Check with {fetch}. Repeat the change only if the call still needs it."
    form = dict(request.form)
    parties = f"to={form.get('To', '')}"
    if address_kind(form.get("To")) == "phone number":  # the API records others differently
        parties += f", from={form.get('From', '')}"
    return (
        f"In a minute, check with list_calls ({parties}, account_sid={request.account_sid}). If it "
        "lists an outbound-api call created at the time of this request, the call was placed. "
        "Otherwise, place it again only if your user agrees."
    )
