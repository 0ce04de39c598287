"""What is stored: pending confirmations, approval requests and decisions, and limits.

All times are in seconds since the epoch.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from calls_mcp.errors import OutcomeUnknown
from calls_mcp.tools.catalog import Action
from calls_mcp.tools.outcome import Failure, Outcome

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How long and how much is kept.

    Attributes:
        retention: How many seconds a record is kept after it expired, so that a late use can be
            explained.
        outcome_timeout: How many seconds after a claim to wait for its outcome.
        max_unused: How many unused confirmations one owner can have.
        capacity: How many confirmations there can be in all, apart from those that are in use.
        timeout: How many seconds to wait for a store that is in use or does not answer.
        clock: Returns the time.
    """

    retention: float = 3600
    outcome_timeout: float = 60
    max_unused: int = 100
    capacity: int = 10_000
    timeout: float = 5
    clock: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Binding:
    """What a confirmation is valid for: these arguments of this tool, for this principal."""

    tool: str
    arguments: str
    principal: str


@dataclass(frozen=True, slots=True)
class PendingConfirmation:
    """A confirmation that was issued: what it binds, the state it showed, when it expires.

    `for_operator` if the operator was asked, and not the client's user.
    """

    binding: Binding
    state: str
    expires_at: float
    for_operator: bool = False

    @property
    def owner(self) -> str:
        """Whose unused confirmations it counts with. Those of users never replace an operator's."""
        principal = self.binding.principal
        return f"{principal}\noperator" if self.for_operator else principal


@dataclass(frozen=True, slots=True)
class ConfirmationState:
    """What is known of a confirmation: when it was claimed, and the outcome of that."""

    claimed_at: float | None
    outcome: Outcome | None


@dataclass(frozen=True, slots=True)
class OperatorDecision:
    """A decision: who made it, when, and why, if they gave a reason."""

    is_approval: bool
    by: str
    at: float
    reason: str = ""

    @property
    def word(self) -> str:
        """The decision in a word."""
        return "approved" if self.is_approval else "denied"


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A change that the operator must approve, with the decision if there is one.

    `client` is the name that the principal's client gives itself; `rule` demands the approval. The
    operator can decide until `expires_at`. `users_too` if the rule accepts any human: the client's
    user could have confirmed the change if the client could ask them. `account_sid` is the account
    that the change is for.
    """

    identifier: str
    binding: Binding
    action: Action
    preview: str
    client: str
    rule: str
    asked_at: float
    expires_at: float
    users_too: bool = False
    account_sid: str = ""
    decision: OperatorDecision | None = None

    @property
    def owner(self) -> str:
        """Whose pending requests it counts with: the principal's, on each account."""
        return f"{self.binding.principal}\n{self.account_sid}"

    def has_expired(self, now: float) -> bool:
        """Whether nobody decided in time."""
        return self.decision is None and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class Position:
    """The place of a request among those that are pending: by age, then by identifier."""

    asked_at: float
    identifier: str


@dataclass(frozen=True, slots=True)
class PendingPage:
    """Some of the pending requests, the oldest first, of `count` in all.

    `last` is where the next page begins; None if this is the last page.
    """

    requests: Sequence[ApprovalRequest]
    count: int
    last: Position | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` of something for `key`, which is a principal or an account, say.

    For `Storage.hit`, that is the amount in any `seconds`. For `Storage.reserve`, it is the amount
    at any one time, and `seconds` is how long a reservation counts unless it is released. `name`
    is for messages, and distinguishes limits of one key.
    """

    name: str
    amount: int
    seconds: int
    key: str

    @property
    def counter(self) -> str:
        """The key under which a store counts it."""
        return f"{self.name}/{self.key}"


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """Nothing was counted: the limit of this name has no room for `retry_after` seconds."""

    name: str
    retry_after: float


def as_json(record: PendingConfirmation | OperatorDecision | ApprovalRequest) -> str:
    """Return the JSON text of a record."""
    return to_json(record).decode()


def parse(kind: type[_T], text: str | None) -> _T | None:
    """Return the record in this JSON, if any; None if an incompatible version wrote it."""
    if not text:
        return None
    try:
        return _adapter(kind).validate_json(text)
    except ValidationError:
        return None


def parse_request(text: str | None, decision: str | None = None) -> ApprovalRequest | None:
    """Return the request in this JSON, if any; None if an incompatible version wrote it."""
    request = parse(ApprovalRequest, text)
    if request is None or not decision:
        return request
    made = parse(OperatorDecision, decision)
    return made and replace(request, decision=made)


def parse_requests(rows: Sequence[tuple[str, str | None]]) -> Sequence[ApprovalRequest]:
    """Return the requests in these rows of JSON, each with its decision."""
    return [request for row in rows if (request := parse_request(*row))]


def parse_outcome(text: str | None) -> Outcome | None:
    """Return the outcome in this JSON, if any; unknown if an incompatible version wrote it."""
    if not text:
        return None
    try:
        return Outcome.model_validate_json(text)
    except ValidationError:
        return unknown_outcome()


def unknown_outcome() -> Outcome:
    """Return the outcome of a claim whose holder was not heard of again."""
    error = OutcomeUnknown(
        "It is not known whether this took effect: this confirmation was used before, and whoever "
        "used it has not been heard of since. Nothing new was sent.",
        "Do not call again yet. Look with fetch_call or list_calls whether it took effect; only if "
        "it did not, and your user agrees, call without confirmation_token for a new preview.",
    )
    return Outcome(outcome="error", error=Failure.from_error(error))


def pending_page(rows: Sequence[tuple[str, str, float]], most: int, count: int) -> PendingPage:
    """Return the page of these rows of JSON, identifier and age; one beyond `most` means more."""
    last = Position(rows[most - 1][2], rows[most - 1][1]) if len(rows) > most else None
    return PendingPage(parse_requests([(text, None) for text, _, _ in rows[:most]]), count, last)


@cache
def _adapter(kind: type[_T]) -> TypeAdapter[_T]:
    return TypeAdapter(kind)
