"""What is stored: pending confirmations, approval requests and decisions, and limits.

All times are in seconds since the epoch.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from calls_mcp.errors import OutcomeUnknown
from calls_mcp.tools.outcome import Failure, Outcome

Action = Literal["place", "hang_up", "redirect", "modify", "delete"]


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How long and how much is kept.

    Attributes:
        retention: How many seconds a record is kept after it expired, so that a late use can be
            explained.
        patience: How many seconds a claim may take before those who wait for its outcome give up.
        each: How many unused confirmations one owner can have.
        capacity: How many confirmations there can be in all, apart from those that are in use.
        busy: How many seconds to wait for a store that is in use or does not answer.
        clock: Returns the time.
    """

    retention: float = 3600
    patience: float = 60
    each: int = 100
    capacity: int = 10_000
    busy: float = 5
    clock: Callable[[], float] = time.time

    def patience_left(self, claimed_at: float | None) -> float:
        """Return for how many seconds to wait for what was claimed at that time."""
        if claimed_at is None:
            return self.patience
        return min(self.patience, max(0.0, claimed_at + self.patience - self.clock()))


@dataclass(frozen=True, slots=True)
class Binding:
    """What a confirmation is valid for: these arguments of this tool, for this principal."""

    tool: str
    arguments: str
    principal: str


class _Stored:
    """What is kept as JSON."""

    __slots__ = ()

    def pack(self) -> str:
        """Return it as JSON."""
        return to_json(self).decode()


@dataclass(frozen=True, slots=True)
class PendingConfirmation(_Stored):
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
class OperatorDecision(_Stored):
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
class ApprovalRequest(_Stored):
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
    def place(self) -> str:
        """The key under which a store counts it."""
        return f"{self.name}/{self.key}"


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nothing was taken: the limit of this name has no room for another `wait` seconds."""

    name: str
    wait: float


_CONFIRMATION = TypeAdapter(PendingConfirmation)
_DECISION = TypeAdapter(OperatorDecision)
_REQUEST = TypeAdapter(ApprovalRequest)


def unpack_confirmation(text: str) -> PendingConfirmation | None:
    """Return the confirmation in this JSON; None if an incompatible version wrote it."""
    try:
        return _CONFIRMATION.validate_json(text)
    except ValidationError:
        return None


def unpack_outcome(text: str | None) -> Outcome | None:
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


def unpack_decision(text: str) -> OperatorDecision | None:
    """Return the decision in this JSON; None if an incompatible version wrote it."""
    try:
        return _DECISION.validate_json(text)
    except ValidationError:
        return None


def unpack_request(text: str, decision: str | None = None) -> ApprovalRequest | None:
    """Return the request in this JSON; None if an incompatible version wrote it."""
    try:
        request = _REQUEST.validate_json(text)
        return replace(request, decision=_DECISION.validate_json(decision)) if decision else request
    except ValidationError:
        return None


def pending_page(rows: Sequence[tuple[str, str, float]], most: int, count: int) -> PendingPage:
    """Return the page of these rows of JSON, identifier and age; one beyond `most` means more."""
    requests = [unpack_request(text) for text, _, _ in rows[:most]]
    more = rows[most - 1] if len(rows) > most else None
    last = more and Position(more[2], more[1])
    return PendingPage([each for each in requests if each], count, last)
