"""The interface of every store, and the behavior that all have in common."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import anyio

from calls_mcp.storage.records import (
    ApprovalRequest,
    ConfirmationState,
    Exhausted,
    Limit,
    OperatorDecision,
    PendingConfirmation,
    PendingPage,
    Position,
    StorageOptions,
    unknown_outcome,
)
from calls_mcp.tools.outcome import Outcome

Kind = Literal["memory", "sqlite", "redis"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1  # seconds between two looks for an outcome


class Storage(ABC):
    """Keeps confirmations, approval requests and counters in one place.

    Each method is atomic across processes. It raises StoreUnavailable if that place can't be
    reached. Those that are called after something was sent (`settle`, `release`, `forget`) raise
    Unrecorded instead.
    """

    kind: Kind
    where: str
    """Where it is, for the operator; never with a password."""

    def __init__(self, options: StorageOptions) -> None:
        self._options = options

    @property
    def is_shared(self) -> bool:
        """Whether other processes can see what is kept here."""
        return self.kind != "memory"

    # Confirmations

    @abstractmethod
    async def put(self, identifier: str, pending: PendingConfirmation) -> None:
        """Keep a new confirmation. One that is already kept stays as it is.

        If its owner has too many unused ones, the oldest of them is forgotten.
        """

    @abstractmethod
    async def get(self, identifier: str) -> PendingConfirmation | None:
        """Return the confirmation of this identifier, if it is still kept."""

    @abstractmethod
    async def claim(self, identifier: str) -> bool:
        """Take the one right to act on it: true for exactly one caller, ever, in any process."""

    @abstractmethod
    async def state(self, identifier: str) -> ConfirmationState | None:
        """Return when it was claimed and its outcome so far; None if it is not kept."""

    @abstractmethod
    async def settle(self, identifier: str, outcome: Outcome) -> None:
        """Record the outcome, for those who wait for it. The first one recorded counts."""

    async def outcome(self, identifier: str) -> Outcome:
        """Return the outcome of a confirmation, once it is there.

        The process that claimed it may have died, so waiting ends some time after the claim. Then,
        and for what is no longer kept, the outcome is an `error` of kind outcome_unknown.
        """
        state = await self.state(identifier)
        if state is None:
            return unknown_outcome()
        if state.outcome is not None:
            return state.outcome
        with anyio.move_on_after(self._options.patience_left(state.claimed_at)):
            return await self._settled(identifier)
        return unknown_outcome()

    async def _settled(self, identifier: str) -> Outcome:
        """Return the outcome, however long that takes."""
        pause = _FIRST_PAUSE
        while (state := await self.state(identifier)) is not None:
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

    async def latest_request(self, identifier: str) -> ApprovalRequest | None:
        """Return the same, after every decision that is being written."""
        return await self.find_request(identifier)

    @abstractmethod
    async def decide(self, identifier: str, decision: OperatorDecision) -> OperatorDecision | None:
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
    async def pending_mark(self) -> str:
        """Return a text that differs whenever other requests are pending than before."""

    # Counters

    @abstractmethod
    async def exhausted(self, limits: Sequence[Limit]) -> Exhausted | None:
        """Return a limit that has no room now, if there is one; take nothing."""

    async def hit(self, limits: Sequence[Limit]) -> Exhausted | None:
        """Take one from every limit if all have room; otherwise return one that has none."""
        return await self._take("hits", limits, secrets.token_urlsafe(9))

    async def reserve(self, limits: Sequence[Limit]) -> str | Exhausted:
        """Reserve room in every limit if all have room; return the reservation, for `release`."""
        reservation = secrets.token_urlsafe(9)
        return await self._take("reserved", limits, reservation) or reservation

    @abstractmethod
    async def release(self, limits: Sequence[Limit], reservation: str) -> None:
        """Give up a reservation, if it still counts."""

    @abstractmethod
    async def reservations(self, limit: Limit) -> Sequence[str]:
        """Return the reservations that count against a limit now, in the order they expire."""

    async def note(self, key: str, seconds: float, text: str = "") -> str | None:
        """Note `text`, or else a random one, under `key` for `seconds`.

        Returns:
            The text; None, and nothing is noted, if another is noted there already.
        """
        text = text or secrets.token_urlsafe(9)
        return text if await self._note(key, seconds, text) else None

    @abstractmethod
    async def forget(self, key: str, text: str) -> bool:
        """Remove a note; return whether it was still there, which is so for one caller."""

    @abstractmethod
    async def noted(self, key: str) -> tuple[str, float] | None:
        """Return the note under `key`, and for how many more seconds it stands."""

    @abstractmethod
    async def _take(self, kind: str, limits: Sequence[Limit], entry: str) -> Exhausted | None:
        """Count `entry` in every limit if all have room; otherwise return one that has none."""

    @abstractmethod
    async def _note(self, key: str, seconds: float, text: str) -> bool:
        """Note `text` under `key`, unless there is a note; return whether it was done."""

    # The store itself

    @abstractmethod
    async def ping(self) -> None:
        """Return if the store can be written to now."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close files and connections."""
