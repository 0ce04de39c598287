"""All errors, by what they mean for the call.

CallsError
├ ConfigurationError         at start: a setting is missing or wrong
│ └ FileError                at start: a file of the operator is wrong
├ CatalogError               at start: a file of this project is wrong
└ InvocationError            an invocation failed
  ├ InvalidArguments         nothing was sent: the arguments are wrong
  ├ InvalidConfirmation      nothing was sent: the token does not confirm this
  ├ NotApplicable            nothing was sent: the status of the call does not allow it
  ├ PolicyDenied             nothing was sent: the operator's policy refuses it
  ├ AuditUnavailable         nothing was sent: the audit log can't be written
  ├ StoreUnavailable         nothing was sent: the state store can't be reached
  │ └ OutcomeNotStored       the outcome of a change could not be stored
  ├ Rejected                 the API refused: nothing happened
  │ ├ NotFound               the call does not exist
  │ ├ CredentialsRejected    the API does not accept the credentials
  │ └ RateLimited            the API was too busy
  ├ Unreachable              the request was not sent: nothing happened
  │ └ NotAttempted           no connection was tried
  ├ NotDone                  the API failed, and a lookup showed that nothing happened
  ├ Unavailable              a read failed: nothing happened
  │ └ Redirected             a read was redirected, which is not followed
  └ OutcomeUnknown           a change was sent, but its response was lost
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

_NO_SUCH_RESOURCE = 20404

KNOWN_ARGUMENT = "a known argument"
"""The `expected` of a fault for an unknown argument; `received` is then its name."""
NOTHING = "nothing"
"""The `received` of a fault for a missing argument."""
NONE_OF_THEM = "none of them"
"""The `received` of a fault if none of several arguments is given; `path` is one of them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in the arguments of an invocation.

    `path` is a JSON Pointer; `expected` and `received` are phrases.
    """

    path: str
    expected: str
    received: object = None
    example: object = None
    did_you_mean: object = None


class CallsError(Exception):
    """The base of this package's exceptions."""


class ConfigurationError(CallsError):
    """The server can't start with this configuration. The message says what to change."""


class MissingCredentials(ConfigurationError):
    """The server can't reach the API; `missing` names the environment variables to set."""

    def __init__(self, variables: Iterable[str]) -> None:
        self.missing = " and ".join(variables)
        super().__init__(
            f"Missing credentials: set {self.missing}, or try the sandbox, which needs none: "
            "add --sandbox to the command"
        )


class FileError(ConfigurationError):
    """A file of the operator is wrong; `problems` has every fault, with file and line."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class CatalogError(CallsError):
    """A file under `config/` or `prompts/` is wrong; each fault begins with its key."""

    def __init__(self, file: str, *faults: str) -> None:
        super().__init__(f"{file}: {'; '.join(faults)}")


class InvocationError(CallsError):
    """An invocation failed; the texts tell an agent what to do.

    `kind` names the failure, and `hint` says what to do next. `retryable` is whether the same
    invocation can be sent again, after `retry_after` seconds. If the API responded, `status` is its
    HTTP status, `request_id` its ID for the request, and `code` its error code, explained at
    https://www.twilio.com/docs/errors.
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
    """The arguments are wrong; `faults` lists all faults."""

    kind = "invalid_arguments"

    def __init__(self, faults: Sequence[Fault]) -> None:
        is_single = len(faults) == 1
        count = "1 argument is" if is_single else f"{len(faults)} arguments are"
        fix = "Fix this" if is_single else "Fix all of these"
        super().__init__(f"Nothing was sent because {count} wrong.", f"{fix} and try again.")
        self.faults = tuple(faults)


class InvalidConfirmation(InvocationError):
    """The confirmation token is not for this invocation."""

    kind = "invalid_confirmation"


class NotApplicable(InvocationError):
    """The status of the call does not allow the change, so the user was not asked."""

    kind = "not_applicable"


class PolicyDenied(InvocationError):
    """The operator's policy refuses the invocation, so nothing was sent. `rule` names the rule.

    If several rules refuse it, `reason` names the others, too, and `hint` is for all of them.
    """

    kind = "policy_denied"

    def __init__(self, rule: str, reason: str, hint: str) -> None:
        message = f"Nothing was sent. The operator's policy refuses this ({rule}): {reason}."
        super().__init__(message, hint)
        self.rule = rule


class AuditUnavailable(InvocationError):
    """The audit log at `where` can't be written because of `reason`, so nothing may be sent."""

    kind = "audit_unavailable"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            "Nothing was sent because the audit log can't be written.",
            f"Ask the operator of this server to fix the audit log ({reason}), or to set "
            "CALLS_MCP_AUDIT_DATABASE to another one. Until then, changes are refused, but "
            "fetch_call and list_calls still work.",
        )
        self.for_operator = (
            f"The audit log {where} can't be written: {reason}. "
            "Check it, or set CALLS_MCP_AUDIT_DATABASE to another file."
        )


class StoreUnavailable(InvocationError):
    """The state store can't be used, so nothing was sent.

    `for_operator` says which store can't be used, why, and which setting to change.
    """

    kind = "store_unavailable"
    retryable = True
    _message = "Nothing was sent because the state store can't be reached."
    _hint = (
        "Try again in a few seconds. If this continues, ask the operator to check that the store "
        "in CALLS_MCP_STATE_URL is running, reachable and writable."
    )

    def __init__(self, for_operator: str = "") -> None:
        super().__init__(self._message, self._hint)
        self.for_operator = for_operator


class OutcomeNotStored(StoreUnavailable):
    """An outcome could not be written to the store, but the change may have been made.

    A caller that knows the outcome should report it instead of this error.
    """

    retryable = False
    _message = "The outcome could not be stored because the state store can't be reached."
    _hint = (
        "Check the outcome with fetch_call or list_calls before you try again. Ask the operator to "
        "check the store in CALLS_MCP_STATE_URL."
    )


class Rejected(InvocationError):
    """The API returned a 4xx status other than 408, so nothing happened."""

    kind = "rejected"


class NotFound(Rejected):
    """The call does not exist in the account."""

    kind = "not_found"

    @property
    def is_sure(self) -> bool:
        """Return whether this comes from the API itself, and not from a proxy."""
        return self.code == _NO_SUCH_RESOURCE


class CredentialsRejected(Rejected):
    """The API does not accept the server's credentials, or does not allow them to do this."""

    kind = "credentials_rejected"


class RateLimited(Rejected):
    """The API was too busy to process the request, so a retry is safe."""

    kind = "rate_limited"
    retryable = True


class Unreachable(InvocationError):
    """The request was not sent."""

    kind = "unreachable"
    retryable = True


class NotAttempted(Unreachable):
    """The request was held back here; an immediate retry would fail, too."""


class NotDone(InvocationError):
    """The API failed to make a change, and a lookup showed that nothing changed."""

    kind = "not_done"
    retryable = True

    def __init__(self, message: str, *, status: int | None) -> None:
        super().__init__(message, "It is safe to try again in a few seconds.", status=status)


class Unavailable(InvocationError):
    """A read got no usable response. A retry is safe, because reads change nothing."""

    kind = "unavailable"
    retryable = True


class Redirected(Unavailable):
    """A read was redirected. A retry would be redirected, too."""

    retryable = False

    def __init__(self, message: str, *, status: int | None) -> None:
        hint = (
            "A retry will not help. The operator must check CALLS_MCP_API_BASE_URL and the proxy."
        )
        super().__init__(message, hint, status=status)


class OutcomeUnknown(InvocationError):
    """A change was sent, but its outcome is unknown. It must not be retried."""

    kind = "outcome_unknown"
