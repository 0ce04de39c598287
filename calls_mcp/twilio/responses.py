"""What an HTTP exchange that went wrong means, in words an agent can act on."""

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
from typing import cast

import orjson

from calls_mcp.errors import (
    CredentialsRejected,
    InvocationError,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Rejected,
    Unavailable,
    Unreachable,
    Withheld,
)
from calls_mcp.observability.redaction import masked, quoted
from calls_mcp.tools.call_summary import Unreadable, summarize
from calls_mcp.tools.catalog import CONFIG, Json
from calls_mcp.tools.outcome import CallSummary
from calls_mcp.twilio.requests import Request

_LONGEST_WAIT = 86_400.0  # seconds; whoever asks for more means never
_TRY_LATER = "Nothing happened, so it is safe to call again in a little while."
_CHECK_ARGUMENTS = "Change the arguments according to the API's message; repeating them won't help."

_KINDS: dict[int, tuple[type[Rejected], str]] = {
    HTTPStatus.UNAUTHORIZED: (CredentialsRejected, "The operator must check the credentials."),
    HTTPStatus.FORBIDDEN: (CredentialsRejected, "The operator must check the account's rights."),
    HTTPStatus.NOT_FOUND: (NotFound, "Check the SID and account_sid; list_calls finds calls."),
    HTTPStatus.TOO_MANY_REQUESTS: (RateLimited, _TRY_LATER),
}


def _decoded(body: bytes) -> object:
    """The JSON in a body, if there is any; by the quick way if it takes it, which is stricter."""
    with suppress(ValueError):
        return orjson.loads(body)
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API answered to a request that it carried out; `payload` is empty without a body."""

    payload: Mapping[str, Json]
    status: int
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API answered, as it came; `date` is its own time."""

    status: int
    retry_after: str | None
    body: bytes
    request_id: str = ""
    date: str = ""

    @property
    def is_success(self) -> bool:
        """Whether it is a 2xx."""
        return self.status // 100 == 2  # noqa: PLR2004

    @property
    def is_refusal(self) -> bool:
        """Whether the request surely was not carried out: 4xx, but not a time-out of theirs."""
        return self.status // 100 == 4 and self.status != HTTPStatus.REQUEST_TIMEOUT  # noqa: PLR2004

    def json(self) -> Mapping[str, Json] | None:
        """The body as a JSON object; None if it is anything else."""
        value = _decoded(self.body)
        return cast("Mapping[str, Json]", value) if isinstance(value, dict) else None

    def wait(self) -> float | None:
        """Seconds the API asks to wait before another attempt."""
        text = (self.retry_after or "").strip()
        if text.isascii() and text.isdigit():
            return float(text)
        try:
            moment = parsedate_to_datetime(text)
            return max(0.0, (moment - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError, OverflowError):
            return None


def unsent(what: str) -> Unreachable:
    """The request never left this machine."""
    hint = f"{_TRY_LATER} If it goes on, the operator must check the network and the base URL."
    return Unreachable(f"Nothing was sent: {what}.", hint)


def resting(failures: int, wait: float) -> Withheld:
    """The API is left alone for `wait` seconds, for it has failed so many times in a row."""
    seconds = max(1, ceil(wait))
    error = Withheld(
        f"Nothing was sent: the API has failed {failures} times in a row; "
        f"the next attempt is in {seconds} s.",
        f"Nothing happened: wait {seconds} s, then call again. If it goes on, the operator must "
        "check the network and the API's status.",
    )
    error.retry_after = seconds
    return error


def withheld(what: str) -> Withheld:
    """The request was not even tried, which says nothing about the API."""
    return Withheld(f"Nothing was sent: {what}.", _TRY_LATER)


def crowded(kind: str, width: int, wait: float) -> Withheld:
    """All connections for requests of this kind were in use, for `wait` seconds."""
    return Withheld(
        f"Nothing was sent: none of the {width} connections for {kind} was free within {wait:g} s.",
        _TRY_LATER,
    )


def lost(request: Request, what: str) -> InvocationError:
    """The request left, and no usable answer came."""
    if request.effect == "read":
        return Unavailable(f"Nothing could be read: {what}.", _TRY_LATER)
    message = f"It is not known whether this took effect: the request was sent, but {what}."
    return OutcomeUnknown(message, f"Do not call again yet. {_how_to_find_out(request)}")


def read_call(request: Request, reply: Reply) -> CallSummary:
    """The call in an answer, which must be the one that was asked for.

    Raises:
        InvocationError: It is no call, or another.
    """
    try:
        call = summarize(reply.payload)
    except Unreadable as unreadable:
        raise _mistaken(request, reply, str(unreadable)) from unreadable
    account_sid = call.account_sid or request.account_sid
    if request.sid not in ("", call.sid) or account_sid != request.account_sid:
        raise _mistaken(request, reply, "the API's answer is about another call")
    return call


def _mistaken(request: Request, reply: Reply, what: str) -> InvocationError:
    error = lost(request, what)
    error.status, error.request_id = reply.status, reply.request_id
    return error


def refused(request: Request, answer: Answer, secrets: Sequence[str]) -> InvocationError:
    """The API answered with something other than success."""
    if not answer.is_refusal:
        error = lost(request, f"the API answered {answer.status}")
    else:
        error = _rejected(answer, (*secrets, *request.secrets))
    error.status, error.request_id = answer.status, answer.request_id
    error.retry_after = answer.wait()
    if error.retryable and error.retry_after:
        wait = min(error.retry_after, _LONGEST_WAIT)
        error.hint = f"Wait {wait:.0f} s, then call again."
    return error


def _rejected(answer: Answer, secrets: Sequence[str]) -> Rejected:
    body = answer.json() or {}
    code, said = body.get("code"), body.get("message")
    known = code if isinstance(code, int) and not isinstance(code, bool) else None
    cls, hint = _KINDS.get(answer.status, (Rejected, _CHECK_ARGUMENTS))
    message = f"Nothing happened: the API answered {answer.status}"
    if isinstance(said, str) and said:
        message += f" and says {quoted(masked(said, secrets), 300)}"
    return cls(f"{message}.", _hints().get(str(known), hint), status=answer.status, code=known)


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
