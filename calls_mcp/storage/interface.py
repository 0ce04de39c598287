"""The interface of all stores, and their common behavior."""

import errno
import logging
import secrets
import sqlite3
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from socket import gaierror
from typing import ClassVar, Literal

import anyio

from calls_mcp.errors import StoreUnavailable
from calls_mcp.storage.rate_limits import Limit, LimitExceeded
from calls_mcp.storage.records import (
    ApprovalRequest,
    CallsTo,
    ConfirmationState,
    Durability,
    Frequency,
    OperatorDecision,
    PendingConfirmation,
    PendingPage,
    Position,
    StorageOptions,
    TalkTime,
    unknown_outcome,
)
from calls_mcp.tools.outcome import Outcome

StoreKind = Literal["memory", "sqlite", "redis"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1  # seconds between two reads of an outcome
_PATH_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)


class Storage(ABC):
    """Keeps confirmations, approval requests and counters in one place.

    Each method is atomic across processes, and raises StoreUnavailable if the store can't be used.
    The methods that are called after something was sent (`record_outcome`, `release`,
    `remove_call`, `correct`, `delete_if_equal`) raise OutcomeNotStored instead.
    """

    kind: StoreKind
    where: str
    """The file or URL, for the operator; without a password."""
    _failures: ClassVar[tuple[type[Exception], ...]]
    """The exceptions that mean that the store can't be used."""

    def __init__(self, options: StorageOptions) -> None:
        self._options = options
        self._used: OrderedDict[str, Outcome | None] = OrderedDict()
        """What this process claimed, with its outcome: a restored store does not know of it."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes can use the store."""
        return self.kind != "memory"

    async def now(self) -> float:
        """Return the time by which everything in the store expires, the same for all machines."""
        return self._options.clock()

    # Confirmations

    @abstractmethod
    async def add_confirmation(self, identifier: str, pending: PendingConfirmation) -> None:
        """Add a confirmation. An existing one is not changed.

        If the owner has too many unused confirmations, the oldest of them is removed.
        """

    @abstractmethod
    async def find_confirmation(self, identifier: str) -> PendingConfirmation | None:
        """Return the confirmation with this identifier, if it still exists."""

    async def claim_confirmation(self, identifier: str) -> bool:
        """Claim the confirmation; true for only one caller in all processes, forever.

        It is never true if the store may have been restored since the confirmation was added. Then
        `confirmation_state` may say that nobody has claimed it.
        """
        is_claimed = await self._claim(identifier)
        if identifier in self._used:  # claimed before the store was restored
            return False
        if is_claimed:
            self._remember(identifier, None)
        return is_claimed

    @abstractmethod
    async def confirmation_state(self, identifier: str) -> ConfirmationState | None:
        """Return when it was claimed, and its outcome; None if it does not exist."""

    async def record_outcome(self, identifier: str, outcome: Outcome) -> None:
        """Record the outcome for callers that wait for it. Only the first one counts."""
        if identifier in self._used and self._used[identifier] is None:
            self._remember(identifier, outcome)
        await self._record(identifier, outcome)

    async def wait_for_outcome(self, identifier: str) -> Outcome:
        """Wait for the outcome of a confirmation and return it.

        The process that claimed it may have died, so waiting ends some time after the claim. Then,
        or if the confirmation does not exist, the outcome is an `error` of kind outcome_unknown.
        """
        if known := self._used.get(identifier):
            return known
        state = await self.confirmation_state(identifier)
        if state is None:
            return unknown_outcome()
        if state.outcome is not None:
            return state.outcome
        now = await self.now()
        since = now if state.claimed_at is None else min(now, state.claimed_at)
        with anyio.move_on_after(since + self._options.outcome_timeout - now):
            return await self._outcome(identifier)
        return unknown_outcome()

    async def _outcome(self, identifier: str) -> Outcome:
        """Wait for the outcome without a time limit."""
        pause = _FIRST_PAUSE
        while (state := await self.confirmation_state(identifier)) is not None:
            if state.outcome is not None:
                return state.outcome
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return unknown_outcome()

    def _remember(self, identifier: str, outcome: Outcome | None) -> None:
        self._used[identifier] = outcome
        if len(self._used) > self._options.capacity:
            self._used.popitem(last=False)

    @abstractmethod
    async def _claim(self, identifier: str) -> bool:
        """Claim a confirmation in the store; return whether it was not claimed before."""

    @abstractmethod
    async def _record(self, identifier: str, outcome: Outcome) -> None:
        """Record an outcome in the store, unless there is one."""

    # Approval requests

    @abstractmethod
    async def add_request(self, request: ApprovalRequest, most: int) -> bool:
        """Add a request unless its owner has `most` pending ones; return whether it was added."""

    @abstractmethod
    async def find_request(self, identifier: str) -> ApprovalRequest | None:
        """Return the request with this identifier, if it still exists."""

    async def find_request_after_writes(self, identifier: str) -> ApprovalRequest | None:
        """Wait until decisions in progress are written, then return the request."""
        return await self.find_request(identifier)

    @abstractmethod
    async def decide_request(
        self, identifier: str, decision: OperatorDecision
    ) -> OperatorDecision | None:
        """Decide a request, unless it was decided before; return the decision that counts.

        Returns None if the request does not exist or has expired.
        """

    @abstractmethod
    async def newest_requests(self, most: int) -> Sequence[ApprovalRequest]:
        """Return the newest requests, decided or not, newest first."""

    @abstractmethod
    async def pending_requests(self, most: int, after: Position | None = None) -> PendingPage:
        """Return at most `most` of the pending requests, without reading all of them.

        They begin with the oldest, or `after` a position, even if its request does not exist now.
        """

    @abstractmethod
    async def pending_version(self) -> str:
        """Return a string that changes whenever the set of pending requests does."""

    # Limits

    @abstractmethod
    async def check_limits(self, limits: Sequence[Limit], times: int = 1) -> LimitExceeded | None:
        """Return a limit that is too low for `times` hits now, if there is one; count nothing."""

    async def hit(self, limits: Sequence[Limit], times: int = 1) -> LimitExceeded | None:
        """Count `times` hits against all limits, or return a limit that is too low for them."""
        return await self._count("hits", limits, [secrets.token_urlsafe(9) for _ in range(times)])

    async def reserve(self, limits: Sequence[Limit], times: int = 1) -> str | LimitExceeded:
        """Return a reservation of `times` against all limits, or a limit that is too low for it."""
        reservation = secrets.token_urlsafe(9)
        return await self._count("reserved", limits, _places(reservation, times)) or reservation

    async def release(self, limits: Sequence[Limit], reservation: str, times: int = 1) -> None:
        """Release a reservation that counts `times`."""
        await self._uncount("reserved", limits, _places(reservation, times))

    async def reservations(self, limit: Limit) -> Sequence[str]:
        """Return the reservations that count against a limit now, in order of expiry."""
        entries = await self._counted("reserved", limit)
        return [*dict.fromkeys(entry.partition(".")[0] for entry in entries)]

    async def count_hits(self, limit: Limit) -> int:
        """Return how many hits count against a limit now."""
        return await self._usage("hits", limit)

    async def count_reserved(self, limit: Limit) -> int:
        """Return how much is reserved of a limit now."""
        return await self._usage("reserved", limit)

    @abstractmethod
    async def _usage(self, kind: str, limit: Limit) -> int:
        """Return how many entries count against a limit now."""

    @abstractmethod
    async def _uncount(self, kind: str, limits: Sequence[Limit], entries: Sequence[str]) -> None:
        """Stop counting `entries`."""

    @abstractmethod
    async def _counted(self, kind: str, limit: Limit) -> Sequence[str]:
        """Return the entries that count against a limit now, in order of expiry."""

    @abstractmethod
    async def _count(
        self, kind: str, limits: Sequence[Limit], entries: Sequence[str]
    ) -> LimitExceeded | None:
        """Count `entries` against all limits, or return a limit that is too low for them."""

    # Calls to numbers. Their keys do not reveal the numbers.

    @abstractmethod
    async def calls_to(
        self, numbers: Sequence[str], most: Frequency, entry: str = ""
    ) -> Sequence[CallsTo] | LimitExceeded:
        """Return how often each number was called, or a limit without room for calls to `numbers`.

        `numbers` has a number once for each call to it; the result has each number once, in the
        order of its first call. With an `entry`, also count the calls, if there is room.
        """

    @abstractmethod
    async def remove_call(self, numbers: Sequence[str], entry: str) -> None:
        """Stop counting the calls that `calls_to` counted with the same arguments."""

    # Talk time. The amount of a budget is in seconds.

    @abstractmethod
    async def spend(self, budgets: Sequence[Limit], talk: TalkTime) -> Limit | None:
        """Count the `least` seconds of new calls, or return a budget that has no room for them.

        Without an entry, only check this.
        """

    @abstractmethod
    async def correct(self, budgets: Sequence[Limit], talk: TalkTime) -> None:
        """Replace what was counted for calls, if it still counts."""

    @abstractmethod
    async def spent(self, budget: Limit) -> Sequence[TalkTime]:
        """Return what counts against a budget now, oldest first."""

    # Values that expire

    async def set_if_absent(self, key: str, ttl: float, value: str = "") -> str | None:
        """Store `value`, by default a random one, under `key` for `ttl` seconds.

        Returns:
            The value; None if the key already has one, which is not changed.
        """
        value = value or secrets.token_urlsafe(9)
        return value if await self._is_set(key, ttl, value) else None

    @abstractmethod
    async def get_with_ttl(self, key: str) -> tuple[str, float] | None:
        """Return the value under `key`, and in how many seconds it expires."""

    @abstractmethod
    async def delete_if_equal(self, key: str, value: str) -> bool:
        """Delete the value under `key` if it is `value`; return true for one caller only."""

    @abstractmethod
    async def _is_set(self, key: str, ttl: float, value: str) -> bool:
        """Store `value` under `key` unless it has one; return whether it was stored."""

    # The store itself

    @abstractmethod
    async def ping(self) -> None:
        """Check that the store can be written to now."""

    async def durability(self) -> Durability | None:
        """Return how a Redis keeps its data; None for other stores, or if `INFO` is not allowed."""
        return None

    @abstractmethod
    async def aclose(self) -> None:
        """Close files and connections."""

    @contextmanager
    def _raising(self, unavailable: type[StoreUnavailable]) -> Generator[None]:
        """Raise `unavailable` and log the cause if the store can't be used."""
        try:
            yield
        except self._failures as failure:
            error = unavailable(why_unusable(self.where, failure))
            _log.warning("%s", error.for_operator)
            raise error from failure


def _places(reservation: str, times: int) -> Sequence[str]:
    """Return the entries of a reservation; the id itself has no dot."""
    return [reservation, *(f"{reservation}.{number}" for number in range(1, times))]


def why_unusable(where: str, failure: Exception) -> str:
    """Return, for the operator, why the store at `where` can't be used and what to do."""
    is_missing = isinstance(failure, OSError) and failure.errno in _PATH_ERRORS
    more = " The server must be able to write to the directory and the file." if is_missing else ""
    return (
        f"The state store {where} can't be used: {error_text(failure)}.{more} "
        "Check it, or set CALLS_MCP_STATE_URL to another store."
    )


def error_text(failure: BaseException) -> str:
    """Return why a file or server can't be used, without error numbers and socket addresses."""
    match _operating_systems(failure):
        case TimeoutError(args=()):
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused"
        case gaierror():
            return "host name not found"
        case OSError(strerror=str(text)):
            return text.partition(" (while ")[0].rstrip(".")  # Python adds the address to it
        case OSError(args=(str(text),)) if text.startswith("Multiple exceptions"):
            return "could not connect to any of the host's addresses"
        case error:
            return str(error or failure).rstrip(".")


def _operating_systems(failure: BaseException) -> OSError | None:
    """Return the operating system's error that caused `failure`, if there is one."""
    cause: BaseException | None = failure
    while cause is not None and not isinstance(cause, OSError):
        cause = None if isinstance(cause, sqlite3.Error) else cause.__cause__ or cause.__context__
    return cause
