"""The outcome of an invocation, which is the structured content of its result.

The published output schemas and the texts for a model are made from these models.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

from calls_mcp.errors import Fault, InvocationError
from calls_mcp.tools.call_summary import CallSummary, Content

OutcomeName = Literal[
    "done", "confirmation_required", "awaiting_operator", "declined", "expired", "error"
]


class Failure(Content):
    """The reason why nothing was done, or why the outcome is unknown.

    `retry_after` is in seconds, and not shown: the hint says it.
    """

    kind: str
    message: str
    hint: str
    retryable: bool
    faults: tuple[Fault, ...] = ()
    http_status: int | None = None
    code: int | None = None
    more_info: str | None = None
    retry_after: SkipJsonSchema[float | None] = Field(default=None, exclude=True)

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
            retry_after=error.retry_after,
        )


@dataclass(frozen=True, slots=True)
class Risk:
    """Something unusual about a change: a label of a few words, and a sentence about it."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A change in words and in exact values.

    All texts are sentences, except `headline`, which is a phrase such as "Call +1 202 555 0171".

    Attributes:
        requester: The principal that requests the change, in quotes.
        facts: When and where it happens, and what it means.
        heard: What is heard or happens on the call, in order.
        details: The account, and notes on the arguments.
        arguments: The exact JSON value of each argument except TwiML, by name, and where it comes
            from if this is the policy. `say` is left out if `heard` quotes it exactly.
        twiml: The exact TwiML, except that passwords are masked; or empty.
    """

    headline: str
    requester: str
    facts: tuple[str, ...] = ()
    heard: tuple[str, ...] = ()
    risks: tuple[Risk, ...] = ()
    details: tuple[str, ...] = ()
    arguments: tuple[tuple[str, str], ...] = ()
    twiml: str = ""

    @property
    def text(self) -> str:
        """The whole preview. Each line is a sentence or more, so that it can be shown as one."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.headline}."
        yield from self.facts
        yield from (f"{risk.label}: {risk.text}" for risk in self.risks)
        if self.heard:  # a long text must not push the risks out of sight
            yield " ".join(self.heard)
        yield " ".join((f"Requested by {self.requester}.", *self.details))
        exact = ", ".join(f"{name} {value}" for name, value in self.arguments)
        yield f"Exact arguments: {exact}."
        if self.twiml:
            yield "Exact TwiML:"
            # With the bar, no line looks like one of the server.
            yield from (f"  | {line}" for line in self.twiml.splitlines())


class Confirmation(Content):
    """A confirmation that an invocation needs before it has any effect.

    The user confirms with `token`; the operator approves the request `approval`. All other fields
    are always present, but the schema does not say so, to save tokens.
    """

    action: str = ""
    preview: str
    expires_at: str = ""
    token: str | None = None
    approval: str | None = None


def _restored(call: CallSummary | Mapping[str, object]) -> CallSummary:
    """Return a call of a stored outcome without validation, because it is normalized."""
    return call if isinstance(call, CallSummary) else CallSummary.model_construct(None, **call)


Call = Annotated[CallSummary, BeforeValidator(_restored)]


class Outcome(Content):
    """The structured content of all results."""

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
        """Return the kind of failure, or an empty string."""
        return self.error.kind if self.error else ""

    def with_cut_texts(self) -> Self:
        """Return it with a warning about each text of its calls that was cut."""
        calls = (*(self.calls or ()), *([self.call] if self.call else ()))
        return self.with_warnings(sorted({warning for call in calls for warning in call.cut}))

    def with_warnings(self, warnings: Sequence[str]) -> Self:
        """Return it with additional warnings."""
        return self.model_copy(update={"warnings": (*self.warnings, *warnings)})


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a tool: the principal, and whether their client can ask its user.

    `client` is the client's name and version, and `waits` is whether it waits for the operator's
    decision. `trace_id` is the trace of the request (32 hex digits), or empty. `request_id` is in
    the log lines of the request.
    """

    principal: str
    can_ask: bool = False
    trace_id: str = ""
    request_id: str = ""
    client: str = ""
    waits: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to the confirmation of `token`; `reason` is the reason for a refusal.

    `by` is how the answer came:

    - `elicitation`: the client's user answered.
    - `token`: the client sent the token.
    - `operator`: the client's user refused an approval request. `token` is the request's id.
    - `client`: the client could not ask its user, so the question is withdrawn.
    - `server`: the operator approved the request, and the server runs the change. `token` is the
      request's id.
    """

    token: str
    approved: bool = True
    reason: str = ""
    by: Literal["elicitation", "token", "operator", "client", "server"] = "token"


ReportProgress = Callable[[float, float, str], Awaitable[None]]
"""Reports the progress of an invocation: the amount, the total and a message."""
