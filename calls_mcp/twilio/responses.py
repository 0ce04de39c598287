"""Responses of the Calls API, and the errors for requests that got no usable one."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from math import ceil
from typing import Self, cast

import orjson

from calls_mcp.errors import (
    CredentialsRejected,
    InvocationError,
    NotAttempted,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Rejected,
    Unavailable,
    Unreachable,
)
from calls_mcp.observability.redaction import masked, quoted
from calls_mcp.tools.call_summary import NotACall, summarize
from calls_mcp.tools.catalog import CONFIG, Json
from calls_mcp.tools.outcome import CallSummary
from calls_mcp.twilio.requests import Request

_LONGEST_WAIT = 86_400.0  # seconds; whoever asks for more means never
_TRY_LATER = "Nothing happened, so it is safe to call again in a little while."
_CHECK_ARGUMENTS = "Change the arguments according to the API's message; repeating them won't help."

_REJECTIONS: dict[int, tuple[type[Rejected], str]] = {
    HTTPStatus.UNAUTHORIZED: (CredentialsRejected, "The operator must check the credentials."),
    HTTPStatus.FORBIDDEN: (CredentialsRejected, "The operator must check the account's rights."),
    HTTPStatus.NOT_FOUND: (NotFound, "Check the SID and account_sid; list_calls finds calls."),
    HTTPStatus.TOO_MANY_REQUESTS: (RateLimited, _TRY_LATER),
}


@dataclass(frozen=True, slots=True)
class Response:
    """A response of the API.

    `payload` is the JSON object in its body, empty unless `has_payload`. `retry_after` is in
    seconds, `date` the API's own time as its header has it.
    """

    status: int
    payload: Mapping[str, Json]
    has_payload: bool
    request_id: str
    retry_after: float | None
    date: str

    @classmethod
    def parse(cls, status: int, headers: Mapping[str, str], body: bytes) -> Self:
        """Return the response with this status, these headers and this body, decoded."""
        payload = _parse_json(body)
        has_payload = isinstance(payload, dict)
        return cls(
            status,
            cast("Mapping[str, Json]", payload) if has_payload else {},
            has_payload,
            headers.get("Twilio-Request-Id", ""),
            _parse_retry_after(headers.get("Retry-After", "")),
            headers.get("Date", ""),
        )

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return self.status // 100 == 2  # noqa: PLR2004

    @property
    def is_rejection(self) -> bool:
        """Whether the request surely was not carried out: 4xx, but not a time-out of theirs."""
        return self.status // 100 == 4 and self.status != HTTPStatus.REQUEST_TIMEOUT  # noqa: PLR2004


def _parse_json(body: bytes) -> object:
    """Return the JSON in a body, None if there is none; orjson is quick, but stricter."""
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


def require_usable(request: Request, response: Response, secrets: Sequence[str]) -> None:
    """Return if `response` says that `request` was carried out, in a form that can be read.

    Raises:
        InvocationError: It does not. None of `secrets` is in its message.
    """
    if not response.is_success:
        raise error_from(request, response, secrets)
    is_deletion = request.effect == "delete"
    if response.status != HTTPStatus.NO_CONTENT if is_deletion else not response.has_payload:
        reason = f"the API answered {response.status}, but with nothing readable"
        raise no_usable_response(request, reason, response)


def read_call(request: Request, response: Response) -> CallSummary:
    """Return the call in a response, which must be the one that was asked for.

    Raises:
        InvocationError: It is no call, or another.
    """
    try:
        call = summarize(response.payload)
    except NotACall as unreadable:
        raise no_usable_response(request, str(unreadable), response) from unreadable
    account_sid = call.account_sid or request.account_sid
    if request.sid not in ("", call.sid) or account_sid != request.account_sid:
        raise no_usable_response(request, "the API's answer is about another call", response)
    return call


def not_sent(reason: str) -> Unreachable:
    """Return the error for a request that never left this machine."""
    hint = f"{_TRY_LATER} If it goes on, the operator must check the network and the base URL."
    return Unreachable(f"Nothing was sent: {reason}.", hint)


def not_attempted(reason: str) -> NotAttempted:
    """Return the error for a request that was not even tried, which says nothing about the API."""
    return NotAttempted(f"Nothing was sent: {reason}.", _TRY_LATER)


def no_free_connection(kind: str, limit: int, wait: float) -> NotAttempted:
    """Return the error for a request that waited so long for one of the connections of its kind."""
    return NotAttempted(
        f"Nothing was sent: none of the {limit} connections for {kind} was free within {wait:g} s.",
        _TRY_LATER,
    )


def circuit_open(failures: int, wait: float) -> NotAttempted:
    """Return the error for a request held back for `wait` seconds after `failures` in a row."""
    seconds = max(1, ceil(wait))
    return NotAttempted(
        f"Nothing was sent: the API has failed {failures} times in a row; "
        f"the next attempt is in {seconds} s.",
        f"Nothing happened: wait {seconds} s, then call again. If it goes on, the operator must "
        "check the network and the API's status.",
        retry_after=seconds,
    )


def no_usable_response(
    request: Request, reason: str, response: Response | None = None
) -> InvocationError:
    """Return the error for a request that left, and for which no usable response came."""
    status, request_id, retry_after = None, "", None
    if response:
        status, request_id = response.status, response.request_id
        retry_after = response.retry_after
    if request.effect == "read":
        return Unavailable(
            f"Nothing could be read: {reason}.",
            _wait(retry_after) if retry_after else _TRY_LATER,
            status=status,
            request_id=request_id,
            retry_after=retry_after,
        )
    return OutcomeUnknown(
        f"It is not known whether this took effect: the request was sent, but {reason}.",
        f"Do not call again yet. {_how_to_find_out(request)}",
        status=status,
        request_id=request_id,
    )


def error_from(request: Request, response: Response, secrets: Sequence[str]) -> InvocationError:
    """Return the error for a response other than success; none of `secrets` is in its message."""
    if not response.is_rejection:
        return no_usable_response(request, f"the API answered {response.status}", response)
    code, words = response.payload.get("code"), response.payload.get("message")
    known = code if isinstance(code, int) and not isinstance(code, bool) else None
    cls, hint = _REJECTIONS.get(response.status, (Rejected, _CHECK_ARGUMENTS))
    hint = _hints().get(str(known), hint)
    if cls.retryable and response.retry_after:
        hint = _wait(response.retry_after)
    message = f"Nothing happened: the API answered {response.status}"
    if isinstance(words, str) and words:
        message += f" and says {quoted(masked(words, (*secrets, *request.secrets)), 300)}"
    return cls(
        f"{message}.",
        hint,
        status=response.status,
        code=known,
        request_id=response.request_id,
        retry_after=response.retry_after,
    )


def _wait(seconds: float) -> str:
    return f"Wait {min(seconds, _LONGEST_WAIT):.0f} s, then call again."


@cache
def _hints() -> Mapping[str, str]:
    return tomllib.loads((CONFIG / "errors.toml").read_text("utf-8"))


def _how_to_find_out(request: Request) -> str:
    fetch = f"fetch_call, sid={request.sid} and account_sid={request.account_sid}"
    if request.effect == "delete":
        return f"Look with {fetch}: not_found means that it was deleted."
    if request.effect == "change":
        return f"Look with {fetch}, and change the call only if it still needs it."
    form = dict(request.form)
    parties = f"to={form.get('To', '')}, from={form.get('From', '')}"
    return (
        f"In a minute, look with list_calls, {parties} and account_sid={request.account_sid}: an "
        "outbound-api call created just now is this one. Place it anew only if there is none and "
        "your user agrees."
    )
