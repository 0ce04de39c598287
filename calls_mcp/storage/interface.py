"""The interface of every store, and the behavior that all have in common."""

import errno
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

import anyio

from calls_mcp.errors import StoreUnavailable
from calls_mcp.storage.models import (
    ApprovalRequest,
    ConfirmationState,
    Limit,
    LimitExceeded,
    OperatorDecision,
    PendingConfirmation,
    PendingPage,
    Position,
    StorageOptions,
    unknown_outcome,
)
from calls_mcp.tools.outcome import Outcome

Kind = Literal["memory", "sqlite", "redis"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1  # seconds between two reads of an outcome
_PATH_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)


class Storage(ABC):
    """Keeps confirmations, approval requests and counters in one place.

    Each method is atomic across processes. It raises StoreUnavailable if that place can't be
    reached. Those that are called after something was sent (`record_outcome`, `release`,
    `delete_if_equal`) raise OutcomeNotStored instead.
    """

    kind: Kind
    where: str
    """Where it is, for the operator; never with a password."""
    _failures: ClassVar[tuple[type[Exception], ...]]
    """What is raised if the place can't be reached."""

    def __init__(self, options: StorageOptions) -> None:
        self._options = options

    @property
    def is_shared(self) -> bool:
        """Whether other processes can see what is kept here."""
        return self.kind != "memory"

    # Confirmations

    @abstractmethod
    async def add_confirmation(self, identifier: str, pending: PendingConfirmation) -> None:
        """Keep a new confirmation. One that is already kept stays as it is.

        If its owner has too many unused ones, the oldest of them is removed.
        """

    @abstractmethod
    async def find_confirmation(self, identifier: str) -> PendingConfirmation | None:
        """Return the confirmation of this identifier, if it is still kept."""

    @abstractmethod
    async def claim_confirmation(self, identifier: str) -> bool:
        """Take the one right to act on it: true for exactly one caller, ever, in any process."""

    @abstractmethod
    async def confirmation_state(self, identifier: str) -> ConfirmationState | None:
        """Return when it was claimed and its outcome so far; None if it is not kept."""

    @abstractmethod
    async def record_outcome(self, identifier: str, outcome: Outcome) -> None:
        """Record the outcome, for those who wait for it. The first one recorded counts."""

    async def wait_for_outcome(self, identifier: str) -> Outcome:
        """Return the outcome of a confirmation, once it is there.

        The process that claimed it may have died, so waiting ends some time after the claim. Then,
        and for what is no longer kept, the outcome is an `error` of kind outcome_unknown.
        """
        state = await self.confirmation_state(identifier)
        if state is None:
            return unknown_outcome()
        if state.outcome is not None:
            return state.outcome
        now = self._options.clock()
        since = now if state.claimed_at is None else min(now, state.claimed_at)
        with anyio.move_on_after(since + self._options.outcome_timeout - now):
            return await self._outcome(identifier)
        return unknown_outcome()

    async def _outcome(self, identifier: str) -> Outcome:
        """Return the outcome, however long that takes."""
        pause = _FIRST_PAUSE
        while (state := await self.confirmation_state(identifier)) is not None:
            if state.outcome is not None:
                return state.outcome
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return unknown_outcome()

    # Approval requests

    @abstractmethod
    async def add_request(self, request: ApprovalRequest, most: int) -> bool:
        """Keep a new request, unless `most` of its owner's are pending; return whether it is."""

    @abstractmethod
    async def find_request(self, identifier: str) -> ApprovalRequest | None:
        """Return the request of this identifier, if it is still kept."""

    async def find_request_after_writes(self, identifier: str) -> ApprovalRequest | None:
        """Return the same, after every decision that is being written."""
        return await self.find_request(identifier)

    @abstractmethod
    async def decide_request(
        self, identifier: str, decision: OperatorDecision
    ) -> OperatorDecision | None:
        """Decide a request, unless it is decided already; return the decision that counts.

        None if there is no such request, or it has expired.
        """

    @abstractmethod
    async def newest_requests(self, most: int) -> Sequence[ApprovalRequest]:
        """Return the newest requests, the newest first, decided or not."""

    @abstractmethod
    async def pending_requests(self, most: int, after: Position | None = None) -> PendingPage:
        """Return at most `most` of the requests that can be decided now; read no more than these.

        They begin with the oldest, or `after` a position, whether or not a request is still there.
        """

    @abstractmethod
    async def pending_version(self) -> str:
        """Return a text that differs whenever other requests are pending than before."""

    # Limits

    @abstractmethod
    async def check_limits(self, limits: Sequence[Limit]) -> LimitExceeded | None:
        """Return a limit that has no room now, if there is one; count nothing."""

    async def hit(self, limits: Sequence[Limit], times: int = 1) -> LimitExceeded | None:
        """Count hits in every limit if all have room; otherwise return one that has none."""
        return await self._count("hits", limits, [secrets.token_urlsafe(9) for _ in range(times)])

    async def reserve(self, limits: Sequence[Limit]) -> str | LimitExceeded:
        """Reserve room in every limit if all have room; return the reservation, for `release`."""
        reservation = secrets.token_urlsafe(9)
        return await self._count("reserved", limits, [reservation]) or reservation

    @abstractmethod
    async def release(self, limits: Sequence[Limit], reservation: str) -> None:
        """Give up a reservation, if it still counts."""

    @abstractmethod
    async def reservations(self, limit: Limit) -> Sequence[str]:
        """Return the reservations that count against a limit now, in the order they expire."""

    @abstractmethod
    async def _count(
        self, kind: str, limits: Sequence[Limit], entries: Sequence[str]
    ) -> LimitExceeded | None:
        """Count `entries` in every limit if all have room; otherwise return one that has none."""

    # Values that expire

    async def set_if_absent(self, key: str, ttl: float, value: str = "") -> str | None:
        """Keep `value`, or else a random one, under `key` for `ttl` seconds.

        Returns:
            The value; None, and nothing is kept, if the key has a value already.
        """
        value = value or secrets.token_urlsafe(9)
        return value if await self._is_set(key, ttl, value) else None

    @abstractmethod
    async def get_with_ttl(self, key: str) -> tuple[str, float] | None:
        """Return the value under `key`, and for how many more seconds it is kept."""

    @abstractmethod
    async def delete_if_equal(self, key: str, value: str) -> bool:
        """Remove a value; return whether it was still there, which is so for one caller."""

    @abstractmethod
    async def _is_set(self, key: str, ttl: float, value: str) -> bool:
        """Keep `value` under `key`, unless it has a value; return whether it was done."""

    # The store itself

    @abstractmethod
    async def ping(self) -> None:
        """Return if the store can be written to now."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close files and connections."""

    @contextmanager
    def _raising(self, unavailable: type[StoreUnavailable]) -> Generator[None]:
        """Raise `unavailable` if the store can't be reached, and log why."""
        try:
            yield
        except self._failures as failure:
            error = unavailable(explain(self.where, failure))
            _log.warning("%s", error.for_operator)
            raise error from failure


def explain(where: str, failure: Exception) -> str:
    """Return, for the operator, why the store at `where` can't be used and how to use another."""
    is_missing = isinstance(failure, OSError) and failure.errno in _PATH_ERRORS
    more = " Its folder must exist, and both must be writable." if is_missing else ""
    return (
        f"The state store {where} can't be used: {error_text(failure)}.{more} "
        "Set CALLS_MCP_STATE_URL to use another."
    )


def error_text(failure: BaseException) -> str:
    """Return what an error says, without the number of an operating system's error."""
    return (isinstance(failure, OSError) and failure.strerror) or str(failure)
