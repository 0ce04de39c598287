"""The outcome of an invocation: the structured content of its result.

The published output schemas and the text that a model reads are both made from these models.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator

from calls_mcp.errors import Fault, InvocationError
from calls_mcp.tools.call_summary import CallSummary, Content

OutcomeName = Literal[
    "done", "confirmation_required", "awaiting_operator", "declined", "expired", "error"
]


class Failure(Content):
    """Why nothing was done, or why it is not known whether it was."""

    kind: str
    message: str
    hint: str
    retryable: bool
    faults: tuple[Fault, ...] = ()
    http_status: int | None = None
    code: int | None = None
    more_info: str | None = None

    @classmethod
    def from_error(cls, error: InvocationError) -> Self:
        """Return an error as the `error` of a result."""
        code = error.code
        return cls(
            kind=error.kind,
            message=error.message,
            hint=error.hint,
            retryable=error.retryable,
            faults=error.faults,
            http_status=error.status,
            code=code,
            more_info=None if code is None else f"https://www.twilio.com/docs/errors/{code}",
        )


class Confirmation(Content):
    """A question that must be answered before the invocation has any effect.

    The user answers with `token`, or the operator, who knows it as `approval`. All of the others
    are always there, too; that is not published, for the sake of tokens.
    """

    action: str = ""
    preview: str
    expires_at: str = ""
    token: str | None = None
    approval: str | None = None


def _restored(call: CallSummary | Mapping[str, object]) -> CallSummary:
    """Return a call of a stored outcome as it is, since it was normalized before."""
    return call if isinstance(call, CallSummary) else CallSummary.model_construct(None, **call)


Call = Annotated[CallSummary, BeforeValidator(_restored)]


class Outcome(Content):
    """The structured content of every result, whatever became of the invocation."""

    outcome: OutcomeName
    call: Call | None = None
    calls: tuple[Call, ...] | None = None
    account_sid: str | None = None
    count: int | None = None
    next_cursor: str | None = None
    deleted: str | None = None
    recovered: bool = False
    confirmation: Confirmation | None = None
    reason: str | None = None
    error: Failure | None = None
    warnings: tuple[str, ...] = ()
    sandbox: bool = False

    def content(self) -> dict[str, object]:
        """Return it as JSON types."""
        without_calls = {"calls": {"__all__"}}
        content = self.model_dump(mode="json", exclude_defaults=True, exclude=without_calls)
        if self.calls:
            content["calls"] = [call.content() for call in self.calls]
        return content

    @classmethod
    def from_error(cls, error: InvocationError) -> Self:
        """Return the outcome of an invocation that failed."""
        return cls(outcome="error", error=Failure.from_error(error))

    @property
    def error_kind(self) -> str:
        """The kind of failure, or nothing."""
        return self.error.kind if self.error else ""

    def with_warnings(self, warnings: Sequence[str]) -> Self:
        """Return it with `warnings` behind those it has."""
        return self.model_copy(update={"warnings": (*self.warnings, *warnings)})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who invokes: the principal, and whether their client can ask its user.

    `client` is the client's name and version; `waits` whether it waits for the operator to decide.
    `trace_id` is that of the request, 32 hex digits, or empty if it is not traced; `request_id` is
    in the log lines about it.
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


ReportProgress = Callable[[float, float, str], Awaitable[None]]
"""Reports an invocation's progress, its total, and what that means, in words."""


def iso_time(seconds: float) -> str:
    """Return an epoch time as ISO 8601 UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
