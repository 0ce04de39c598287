"""Everything that can go wrong, by what it means for the call.

CallsError
├ ConfigurationError         at start: a setting is missing or wrong
│ └ FileError                at start: a file of the operator's is wrong
├ CatalogError               at start: a file of the project is wrong
└ InvocationError            an invocation failed
  ├ InvalidArguments         nothing was sent: the arguments are wrong
  ├ InvalidConfirmation      nothing was sent: the token does not confirm this
  ├ NotApplicable            nothing was sent: the call is in the wrong state
  ├ PolicyDenied             nothing was sent: the operator's policy refuses it
  ├ AuditUnavailable         nothing was sent: the audit log can't be written
  ├ StoreUnavailable         nothing was sent: the state store can't be reached
  │ └ OutcomeNotStored             what was done could not be recorded in the store
  ├ Rejected                 the API said no: nothing happened
  ├ RateLimited              the API was too busy: nothing happened
  ├ Unreachable              the request never left: nothing happened
  │ └ NotAttempted           it was not even tried
  ├ NotDone                  the API failed, and was seen to have done nothing
  ├ Unavailable              a read failed: nothing happened
  └ OutcomeUnknown           a change was sent and its answer never came
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

_NO_SUCH_RESOURCE = 20404


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with the arguments of an invocation."""

    path: str
    expected: str
    received: object = None
    example: object = None
    did_you_mean: object = None


class CallsError(Exception):
    """The root of this package's exceptions."""


class ConfigurationError(CallsError):
    """The server can't start as it is set up. The message says what to change."""


class FileError(ConfigurationError):
    """A file of the operator's is wrong; `problems` name every fault by file and line."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class CatalogError(CallsError):
    """A file under `config/` or `prompts/` is wrong; each fault begins with its place in it."""

    def __init__(self, file: str, *faults: str) -> None:
        super().__init__(f"{file}: {'; '.join(faults)}")


class InvocationError(CallsError):
    """An invocation failed, in words an agent can act on.

    `kind` names the failure; `hint` says what to do next; `retryable` is whether the same
    invocation may be sent again as it is; `retry_after` how long to wait first, in seconds. Where
    the API answered, `status` is its HTTP status, `request_id` its name for the request, and `code`
    its code of the error, which https://www.twilio.com/docs/errors explains.
    """

    kind: ClassVar[str]
    retryable: ClassVar[bool] = False
    faults: tuple[Fault, ...] = ()

    def __init__(
        self,
        message: str,
        hint: str,
        *,
        status: int | None = None,
        code: int | None = None,
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after


class InvalidArguments(InvocationError):
    """The arguments are wrong; `faults` lists everything that is wrong with them."""

    kind = "invalid_arguments"

    def __init__(self, faults: Sequence[Fault]) -> None:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        message = f"Nothing was sent: {count} in the arguments."
        super().__init__(message, "Mend every fault, then call again.")
        self.faults = tuple(faults)


class InvalidConfirmation(InvocationError):
    """The confirmation token is not one for this invocation."""

    kind = "invalid_confirmation"


class NotApplicable(InvocationError):
    """The call's state rules the change out, so the user was not even asked."""

    kind = "not_applicable"


class PolicyDenied(InvocationError):
    """The operator's policy refuses the invocation: nothing was sent. `rule` is what refused.

    If several rules do, `reason` goes on to name the others, and `hint` is for all of them.
    """

    kind = "policy_denied"

    def __init__(self, rule: str, reason: str, hint: str) -> None:
        message = f"Nothing was sent, because of the operator's policy ({rule}): {reason}."
        super().__init__(message, hint)
        self.rule = rule


class AuditUnavailable(InvocationError):
    """The record can't be written to `where`, so nothing may be sent; `reason` says why."""

    kind = "audit_unavailable"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            "Nothing was sent: the audit record could not be written.",
            f"Ask the operator of this server to check the audit log ({reason}), or to set "
            "CALLS_MCP_AUDIT_DATABASE to another. Until then changes are refused; reading calls "
            "still works.",
        )
        self.for_operator = (
            f"The audit log {where} can't be written: {reason}. "
            "Set CALLS_MCP_AUDIT_DATABASE to use another."
        )


class StoreUnavailable(InvocationError):
    """The state store could not be asked, so nothing was sent.

    `for_operator` says which store can't be used, why, and which setting names another.
    """

    kind = "store_unavailable"
    retryable = True
    _message = "Nothing was sent: the state store can't be reached."
    _hint = (
        "Call again in a little while. If it goes on, the operator must check what "
        "CALLS_MCP_STATE_URL names: that it runs, can be reached, and can be written to."
    )

    def __init__(self, for_operator: str = "") -> None:
        super().__init__(self._message, self._hint)
        self.for_operator = for_operator


class OutcomeNotStored(StoreUnavailable):
    """An outcome could not be written to the store. The change itself may have been made.

    Whoever acted knows the outcome, and should report that rather than this.
    """

    retryable = False
    _message = "What became of this could not be recorded: the state store can't be reached."
    _hint = (
        "Do not call again before fetch_call or list_calls shows what became of it. The "
        "operator must check what CALLS_MCP_STATE_URL names."
    )


class Rejected(InvocationError):
    """The API answered 4xx: nothing happened."""

    kind = "rejected"


class NotFound(Rejected):
    """There is no such call in the account."""

    kind = "not_found"

    @property
    def is_sure(self) -> bool:
        """Whether the API itself says so, and not something in between."""
        return self.code == _NO_SUCH_RESOURCE


class CredentialsRejected(Rejected):
    """The API does not accept the server's credentials, or not for this."""

    kind = "credentials_rejected"


class RateLimited(Rejected):
    """The API was too busy to process the request, which is therefore safe to repeat."""

    kind = "rate_limited"
    retryable = True


class Unreachable(InvocationError):
    """The request never left this machine."""

    kind = "unreachable"
    retryable = True


class NotAttempted(Unreachable):
    """The request was held back here; to try again at once would be of no use."""


class NotDone(InvocationError):
    """The API failed at a change, and a look afterwards showed that it did not take effect."""

    kind = "not_done"
    retryable = True

    def __init__(self, message: str, *, status: int | None) -> None:
        super().__init__(message, "It is safe to call again in a little while.", status=status)


class Unavailable(InvocationError):
    """A read got no usable answer. Reads change nothing, so it is safe to repeat."""

    kind = "unavailable"
    retryable = True


class OutcomeUnknown(InvocationError):
    """A change was sent, and whether it took effect is not known. It must not be repeated."""

    kind = "outcome_unknown"
