"""What is kept of a confirmation, for how long, and what a store must do with it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import anyio
from pydantic import TypeAdapter, ValidationError

from calls_mcp.errors import OutcomeUnknown
from calls_mcp.guard import Binding
from calls_mcp.outcome import Outcome

if TYPE_CHECKING:
    from calls_mcp.store.counters import Counters
    from calls_mcp.store.docket import Docket


@dataclass(frozen=True, slots=True)
class Pending:
    """A question that was asked: what it binds, the state it showed, when it lapses (epoch s).

    `is_filed` if it was put before the operator.
    """

    binding: Binding
    state: str
    expires_at: float
    is_filed: bool = False

    @property
    def owner(self) -> str:
        """Whose unused questions push it out: those of its user none that the operator has."""
        return f"{self.binding.principal}\noperator" if self.is_filed else self.binding.principal


_PENDING = TypeAdapter(Pending)


def pack(pending: Pending) -> str:
    """`pending` as JSON."""
    return _PENDING.dump_json(pending).decode()


def unpack(text: str) -> Pending | None:
    """What `pack` was given; None for what another version of this program wrote."""
    try:
        return _PENDING.validate_json(text)
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long and how much is kept. Every time is in seconds.

    A record is kept for `retention` after it has lapsed, so that a late use is told so. `patience`
    is how long a claim may take before those who wait for its outcome give up. `each` is how many
    unused questions one principal can have; `busy` how long to wait for a store that is in use.
    `clock` gives the time since the epoch.
    """

    retention: float = 3600
    patience: float = 60
    each: int = 100
    busy: float = 5
    clock: Callable[[], float] = time.time

    def forget_at(self, pending: Pending) -> float:
        """When (epoch s) a record need not be kept any more."""
        return pending.expires_at + self.retention

    def patience_left(self, claimed_at: float | None) -> float:
        """How long to wait for what was claimed then, from now on."""
        if claimed_at is None:
            return self.patience
        return min(self.patience, max(0.0, claimed_at + self.patience - self.clock()))


class Store(Protocol):
    """Keeps pending confirmations and what became of them.

    Every method raises StoreUnavailable if the store can't be reached.
    """

    @property
    def kind(self) -> Literal["memory", "sqlite", "redis"]:
        """What it is, for messages."""
        ...

    @property
    def counters(self) -> "Counters":
        """The counters that are kept in the same place."""
        ...

    @property
    def docket(self) -> "Docket | None":
        """What waits for the operator, in the same place; None where only this process sees it."""
        ...

    async def put(self, identifier: str, pending: Pending) -> None:
        """Keep a new question. One that is already kept stays as it is.

        If its principal has too many unused questions, the oldest of them is forgotten.
        """
        ...

    async def get(self, identifier: str) -> Pending | None:
        """The question of this identifier, if it is still kept."""
        ...

    async def claim(self, identifier: str) -> bool:
        """Take the one right to act on it: true for exactly one caller, ever, in any process."""
        ...

    async def fate(self, identifier: str) -> "Fate | None":
        """Who has, or had, that right, and what became of it so far; None if it is not kept."""
        ...

    async def settle(self, identifier: str, outcome: Outcome) -> None:
        """Record what became of it, for those who wait. The first outcome recorded is the one.

        Raises:
            Unrecorded: It could not be, whatever became of it.
        """
        ...

    async def outcome(self, identifier: str) -> Outcome:
        """What became of it.

        Waits for whoever claimed it, but not for ever: they may have died. After that, and for
        what is no longer kept, it is an `error` of kind outcome_unknown.
        """
        ...

    async def ping(self) -> None:
        """Return if the store can be used."""
        ...

    async def aclose(self) -> None:
        """Let go of files and connections."""
        ...


@dataclass(frozen=True, slots=True)
class Fate:
    """What is known of a record: when it was claimed (epoch s), and what became of it."""

    claimed_at: float | None
    outcome: Outcome | None


def unheard() -> Outcome:
    """The outcome of a claim whose holder was not heard of again."""
    error = OutcomeUnknown(
        "It is not known whether this took effect: this confirmation was used before, and whoever "
        "used it has not been heard of since. Nothing new was sent.",
        "Do not call again yet. Look with fetch_call or list_calls whether it took effect; only if "
        "it did not, and your user agrees, call without confirmation_token for a new preview.",
    )
    return Outcome(outcome="error", error=error.failure())


class Keeper(ABC):
    """What all stores have in common."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        self._counters: Counters | None = None

    @property
    def counters(self) -> "Counters":
        """The counters that are kept in the same place; their library is imported only now."""
        if self._counters is None:
            self._counters = self._make_counters()
        return self._counters

    async def outcome(self, identifier: str) -> Outcome:
        """What became of it; see `Store.outcome`."""
        fate = await self.fate(identifier)
        if fate is None:
            return unheard()
        if fate.outcome is not None:
            return fate.outcome
        with anyio.move_on_after(self._keeping.patience_left(fate.claimed_at)):
            return await self._settled(identifier)
        return unheard()

    @abstractmethod
    def _make_counters(self) -> "Counters":
        """Counters in the same place."""

    @abstractmethod
    async def fate(self, identifier: str) -> Fate | None:
        """What is known of it now; see `Store.fate`."""

    @abstractmethod
    async def _settled(self, identifier: str) -> Outcome:
        """What became of it, however long that takes."""
