"""Where confirmations are kept, from the question to the outcome."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from calls_mcp.guard import Binding
from calls_mcp.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Pending:
    """A question that was asked: what it binds, the state it showed, when it lapses (epoch s)."""

    binding: Binding
    state: str
    expires_at: float


class Store(Protocol):
    """Keeps pending confirmations and what became of them."""

    async def put(self, identifier: str, pending: Pending) -> None:
        """Keep a new question."""
        ...

    async def get(self, identifier: str) -> Pending | None:
        """The question of this identifier, if it is still kept."""
        ...

    async def claim(self, identifier: str) -> bool:
        """Take the one right to act on it: true for exactly one caller, ever."""
        ...

    async def settle(self, identifier: str, outcome: Outcome) -> None:
        """Record what became of it, for those who wait."""
        ...

    async def outcome(self, identifier: str) -> Outcome:
        """What became of it; waits for whoever claimed it."""
        ...


@dataclass(slots=True, eq=False)
class _Record:
    pending: Pending
    claimed: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: Outcome | None = None

    @property
    def in_flight(self) -> bool:
        return self.claimed and not self.settled.is_set()


class MemoryStore:
    """A `Store` for one process. It keeps the newest questions, so a flood can't fill memory."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._records: dict[str, _Record] = {}

    async def put(self, identifier: str, pending: Pending) -> None:
        """Keep a new question, and forget the oldest one not in flight if there are too many."""
        if len(self._records) >= self._capacity:
            idle = (key for key, record in self._records.items() if not record.in_flight)
            del self._records[next(idle)]
        self._records[identifier] = _Record(pending)

    async def get(self, identifier: str) -> Pending | None:
        """The question of this identifier, if it is still kept."""
        record = self._records.get(identifier)
        return record.pending if record else None

    async def claim(self, identifier: str) -> bool:
        """Take the one right to act on it; no await comes between the look and the claim."""
        record = self._records[identifier]
        first, record.claimed = not record.claimed, True
        return first

    async def settle(self, identifier: str, outcome: Outcome) -> None:
        """Record what became of it, and wake those who wait."""
        record = self._records[identifier]
        record.outcome = outcome
        record.settled.set()

    async def outcome(self, identifier: str) -> Outcome:
        """What became of it; waits for whoever claimed it."""
        record = self._records[identifier]
        await record.settled.wait()
        if record.outcome is None:
            raise RuntimeError("settled without an outcome")
        return record.outcome
