"""The stored data: pending confirmations, approval requests and decisions, and limits.

All times are in epoch seconds.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import to_json

from calls_mcp.errors import OutcomeUnknown
from calls_mcp.storage.rate_limits import Limit
from calls_mcp.tools.catalog import Action
from calls_mcp.tools.outcome import Failure, Outcome, Preview

_T = TypeVar("_T")

DAY = 86_400  # seconds
WEEK = 7 * DAY
YEAR = 365 * DAY


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """Limits of a store.

    Attributes:
        retention: Seconds for which a record is kept after it expires, to explain a late use.
        outcome_timeout: Seconds to wait for an outcome after the claim.
        max_unused: How many unused confirmations one owner can have.
        capacity: How many confirmations there can be in total, apart from those in use.
        timeout: Seconds to wait for a store that is busy or does not answer.
        clock: Returns the time of this machine.
        is_simulated: Whether `clock` is also the time of a shared store, for tests.
    """

    retention: float = 3600
    outcome_timeout: float = 60
    max_unused: int = 100
    capacity: int = 10_000
    timeout: float = 5
    clock: Callable[[], float] = time.time
    is_simulated: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """The tool, arguments and principal that a confirmation is valid for."""

    tool: str
    arguments: str
    principal: str


@dataclass(frozen=True, slots=True)
class PendingConfirmation:
    """An issued confirmation: its binding, the state that it showed, and when it expires.

    `for_operator` says whether it asks the operator instead of the client's user.
    """

    binding: Binding
    state: str
    expires_at: float
    for_operator: bool = False

    @property
    def owner(self) -> str:
        """The owner under whom unused ones are counted: users and the operator separately."""
        principal = self.binding.principal
        return f"{principal}\noperator" if self.for_operator else principal


@dataclass(frozen=True, slots=True)
class ConfirmationState:
    """When a confirmation was claimed, and its outcome."""

    claimed_at: float | None
    outcome: Outcome | None


@dataclass(frozen=True, slots=True)
class OperatorDecision:
    """An operator's decision: who made it, when, and their reason, if any.

    `is_withdrawal` is whether the server or the client's user withdrew the request instead.
    """

    is_approval: bool
    by: str
    at: float
    reason: str = ""
    is_withdrawal: bool = False

    @property
    def word(self) -> str:
        """The decision in a word."""
        if self.is_withdrawal:
            return "withdrawn"
        return "approved" if self.is_approval else "denied"


def _restored(preview: object) -> object:
    """Return the preview that an earlier version stored as text."""
    if not isinstance(preview, str):
        return preview
    headline, *facts = preview.splitlines() or [""]
    return Preview(headline.removesuffix("."), "an agent", tuple(facts))


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A change that the operator must approve, with the decision if there is one.

    `client` is the name of the principal's client, and `rule` the rule that requires the approval.
    The operator can decide until `expires_at`. `users_too` says whether the rule accepts any human,
    so that the client's user could confirm if the client supported it. `account_sid` is the account
    of the change. `server` is the process that asked, which runs the change after an approval.
    """

    identifier: str
    binding: Binding
    action: Action
    preview: Annotated[Preview, BeforeValidator(_restored)]
    client: str
    rule: str
    asked_at: float
    expires_at: float
    users_too: bool = False
    account_sid: str = ""
    server: str = ""
    decision: OperatorDecision | None = None

    @property
    def owner(self) -> str:
        """The owner under whom pending requests are counted: a principal with an account."""
        return f"{self.binding.principal}\n{self.account_sid}"

    @property
    def usable_until(self) -> float:
        """When an approval can no longer be used: twice the time to decide after the request."""
        return 2 * self.expires_at - self.asked_at

    def has_expired(self, now: float) -> bool:
        """Return whether the request has expired without a decision."""
        return self.decision is None and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a request among the pending ones: by age, then by identifier."""

    asked_at: float
    identifier: str


@dataclass(frozen=True, slots=True)
class PendingPage:
    """A page of the `count` pending requests, oldest first.

    The next page begins after `last`; it is None on the last page.
    """

    requests: Sequence[ApprovalRequest]
    count: int
    last: Position | None = None


@dataclass(frozen=True, slots=True)
class Durability:
    """How a Redis keeps its data.

    `is_logged` is whether it writes every change to a file (`appendonly yes`), and `eviction` what
    it removes when its memory is full (`maxmemory-policy`); empty if it does not say.
    """

    is_logged: bool
    eviction: str


@dataclass(frozen=True, slots=True)
class Frequency:
    """How many calls to one number are allowed in a day and in a week; 0 means any number."""

    per_day: int = 0
    per_week: int = 0

    @property
    def windows(self) -> tuple[tuple[str, int, int], ...]:
        """The name, amount and seconds of each limit."""
        return (
            ("same_number_per_day", self.per_day, DAY),
            ("same_number_per_week", self.per_week, WEEK),
        )


@dataclass(frozen=True, slots=True)
class CallsTo:
    """How many calls to a number there were in 24 h, and whether there was one in the past year.

    `last` is the entry of the last call in the past week; empty if there was none.
    """

    in_a_day: int
    is_known: bool
    last: str = ""


def entries_of_calls(numbers: Sequence[str], entry: str) -> Mapping[str, Sequence[str]]:
    """Return for each number, in the order of the first calls, an entry for each call to it."""
    return {
        number: [entry, *(f"{entry}.{n}" for n in range(1, times))]
        for number, times in Counter(numbers).items()
    }


@dataclass(frozen=True, slots=True)
class TalkTime:
    """The talk time of `times` simultaneous calls that began at `since`, in seconds.

    Until their end is known, it grows from `least` to `most`. `call` says which calls they are.
    """

    entry: str
    since: float
    least: float
    most: float
    times: int = 1
    call: str = ""

    def seconds(self, now: float) -> float:
        """Return how much of a budget it has used at the time `now`."""
        return max(self.least, min(self.most, self.times * (now - self.since)))


def until_room(found: Sequence[TalkTime], budget: Limit, needed: float, now: float) -> float:
    """Return in how many seconds a budget has `needed` seconds left, as its oldest calls expire."""
    excess = sum(each.seconds(now) for each in found) + needed - budget.amount
    for talk in found:
        excess -= talk.seconds(now)
        if excess <= 0:
            return talk.since + DAY - now
    return DAY


def fits(found: Sequence[TalkTime], budget: Limit, needed: float, now: float) -> bool:
    """Return whether a budget has `needed` seconds left."""
    return sum(each.seconds(now) for each in found) + needed <= budget.amount


def as_json(record: PendingConfirmation | OperatorDecision | ApprovalRequest | TalkTime) -> str:
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
    """Return the outcome of a claim whose process never recorded one."""
    error = OutcomeUnknown(
        "It is unknown whether this took effect: this confirmation was used before, and the "
        "result was not recorded. Nothing new was sent.",
        "Do not retry yet. Check with fetch_call or list_calls whether it took effect. If it "
        "did not, and your user agrees, call without confirmation_token for a new preview.",
    )
    return Outcome(outcome="error", error=Failure.from_error(error))


def pending_page(rows: Sequence[tuple[str, str, float]], most: int, count: int) -> PendingPage:
    """Return the page of these rows of JSON, identifier and time; a row after `most` means more."""
    last = Position(rows[most - 1][2], rows[most - 1][1]) if len(rows) > most else None
    return PendingPage(parse_requests([(text, None) for text, _, _ in rows[:most]]), count, last)


@cache
def _adapter(kind: type[_T]) -> TypeAdapter[_T]:
    return TypeAdapter(kind)
