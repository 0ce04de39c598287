"""What an invocation comes to: the structured content of its result, as plain JSON types.

A key that is not known is absent, never null or empty. The published output schemas and the
text a model reads are both made from these types.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Required, TypedDict

OutcomeName = Literal[
    "done", "confirmation_required", "awaiting_operator", "declined", "expired", "error"
]


class CallGist(TypedDict, total=False):
    """What is declared of a call by the tools that change one; it is a whole `CallSummary`."""

    sid: str
    status: str
    live: bool


CallSummary = TypedDict(  # this form, since "from" is a Python keyword
    "CallSummary",
    {
        "sid": Required[str],
        "status": str,
        "live": bool,
        "direction": str,
        "from": str,
        "to": str,
        "caller_name": str,
        "answered_by": str,
        "created_at": str,
        "started_at": str,
        "ended_at": str,
        "duration_seconds": int,
        "queue_ms": int,
        "cost": str,
        "currency": str,
        "parent_call_sid": str,
        "forwarded_from": str,
        "account_sid": str,
        "phone_number_sid": str,
        "trunk_sid": str,
        "group_sid": str,
    },
    total=False,
)
"""A call, normalized.

Times (`*_at`) are ISO 8601 UTC; `duration_seconds` and `queue_ms` integers in the unit they name;
`cost` a positive decimal in `currency`; `live` whether it is queued, ringing or in progress. In a
list, `account_sid` is told once, beside the calls.
"""


class Fault(TypedDict, total=False):
    """One thing wrong with the arguments of an invocation."""

    path: Required[str]
    expected: Required[str]
    received: object
    example: object
    did_you_mean: object


class Failure(TypedDict, total=False):
    """Why nothing was done, or why it is not known whether it was."""

    kind: Required[str]
    message: Required[str]
    hint: Required[str]
    retryable: Required[bool]
    faults: list[Fault]
    http_status: int
    code: int
    more_info: str


class Confirmation(TypedDict, total=False):
    """A question that must be answered before the invocation has any effect.

    The user answers with `token`, or the operator, who knows it as `approval`. All of the others
    are always there, too; that is not published, for the sake of tokens.
    """

    action: str
    preview: Required[str]
    expires_at: str
    token: str
    approval: str


class Outcome(TypedDict, total=False):
    """The structured content of every result, whatever became of the invocation."""

    outcome: Required[OutcomeName]
    call: CallSummary
    calls: list[CallSummary]
    account_sid: str
    count: int
    next_cursor: str
    deleted: str
    recovered: bool
    confirmation: Confirmation
    reason: str
    error: Failure
    warnings: list[str]
    sandbox: bool


@dataclass(frozen=True, slots=True)
class Caller:
    """Who invokes: the principal, whether their client can put a question to its user.

    `client` is what that calls itself; `waits` is whether it waits for the operator to decide.
    `trace_id` is that of the request, 32 hex digits, or empty if it is not traced; `request_id` is
    the one that log lines about it bear.
    """

    principal: str
    can_ask: bool = False
    trace_id: str = ""
    request_id: str = ""
    client: str = ""
    waits: bool = True


@dataclass(frozen=True, slots=True)
class Approval:
    """An answer to the question that `token` stands for; `reason` is why not.

    `by` is how the answer came: from the client's user, from the model with the token, or to what
    the operator is asked. To that, nobody but the operator can say yes.
    """

    token: str
    approved: bool = True
    reason: str = ""
    by: Literal["elicitation", "token", "operator"] = "token"


Report = Callable[[float, float, str], Awaitable[None]]
"""Is told how far an invocation has come, of how far it will, and what that means."""


def moment(seconds: float) -> str:
    """An epoch time as outcomes tell it: ISO 8601 UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def with_warnings(outcome: Outcome, warnings: Sequence[str]) -> Outcome:
    """`outcome` with `warnings` behind those it has."""
    if not warnings:
        return outcome
    return {**outcome, "warnings": [*outcome.get("warnings", []), *warnings]}
